"""The Inception network of FID: ``Inception``."""

import hashlib
import io
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, UInt8
from loguru import logger
from torch import Tensor

from dimo_core.device import find_device
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.files.foreign import read_foreign
from dimo_core.metric import FeatureExtractor
from dimo_metrics.library import load_torch_fidelity

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""Names under which pytorch-fid and torch-fidelity publish one and the same file."""

PUBLISHED = "6726825d"
"""How the SHA-256 of that file begins."""

ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILES[1]}"
"""Where the weights come from: those of TensorFlow's network of 2015-12-05, converted (Apache-2.0)."""

LAYERS = ("2048", "logits_unbiased")
"""What torch-fidelity computes FID, KID, precision and recall from, and the inception score."""

PREPROCESSING = "torch-fidelity inception-v3-compat float32 2048 logits_unbiased"
"""What happens besides the weights, as part of the fingerprint."""


@attrs.frozen(kw_only=True, slots=False)
class Inception(FeatureExtractor):
    """InceptionV3 as torch-fidelity builds it: 2048 pooled features, 1008 logits without bias.

    Images of any size are scaled to 299x299 within the network, bilinearly as TensorFlow 1 did; gray ones
    get three equal channels. Nothing is downloaded unless ``weights`` names a URL.

    Attributes:
        weights: Path or URL of the weights, as torch-fidelity or pytorch-fid publish them, or as
            safetensors; null looks for the published file in torch's cache.
        batch_size: Images that pass the network at a time.
        device: Where it computes: auto for the device of the run, or a torch device.
    """

    weights: str | None = None
    batch_size: int = attrs.field(default=64, validator=v.gt(0))
    device: str = "auto"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file of weights and of how images are prepared; not of the device.

        Raises:
            CheckpointError: when there are no weights.
        """
        digest = file_sha256(self._path)
        if not digest.startswith(PUBLISHED):
            logger.warning(
                "{} is not the published file of Inception weights, whose SHA-256 begins with {}:"
                " numbers do not compare with published ones",
                self._path,
                PUBLISHED,
            )
        return hashlib.sha256(f"{digest} {PREPROCESSING}".encode()).hexdigest()

    def extract(
        self, images: UInt8[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N 2048"], Float[Tensor, "N 1008"]]:
        """Features and logits, on the CPU.

        Raises:
            CheckpointError: when there are no weights, or they are of another network.
            MissingLibraryError: when torch-fidelity cannot be loaded.
            UsageError: for images with neither 1 nor 3 channels.
        """
        if images.shape[1] not in (1, 3):
            raise UsageError(
                f"features 'inception' are of images with 1 or 3 channels, got {list(images.shape)}."
                " Choose another feature extractor for these images."
            )
        network, device = self._network, find_device(self.device)
        found = []
        with torch.no_grad():
            for part in torch.split(images, self.batch_size):
                colour = part.to(device).expand(-1, 3, -1, -1).contiguous()
                found.append([layer.cpu() for layer in network(colour)])
        features, logits = (torch.cat(layer) for layer in zip(*found, strict=True))
        return features, logits

    @cached_property
    def _path(self) -> Path:
        if self.weights is not None:
            return local_copy(self.weights)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        there = [folder / name for name in FILES if (folder / name).is_file()]
        if not there:
            raise CheckpointError(
                f"no weights for features 'inception': neither {FILES[0]} nor {FILES[1]} (the same 95 MB)"
                f" is in torch's cache {folder}, and nothing is downloaded unasked. Fetch {ADDRESS} into"
                " that folder, or set the option 'weights' of the features to a path or to this URL."
            )
        return there[0]

    @cached_property
    def _network(self) -> Any:
        path = self._path
        tensors = read_foreign(str(path)).state_dict()
        load_torch_fidelity()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles what it is given, so it gets a file that was written here.
        file = io.BytesIO()
        torch.save(tensors, file)
        file.seek(0)
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=file
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not fit the Inception network of FID: {str(error)[:600]}\n"
                f"Use the published weights, {ADDRESS}"
            ) from error
        return network.to(find_device(self.device))
