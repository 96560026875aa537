"""The reference batches of ADM (guided-diffusion): ``ReferenceBatch``."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.sources import Data, Examples

SPLIT = "all"


@attrs.frozen(kw_only=True)
class ReferenceBatch(Data):
    """The images ``arr_0`` of an .npz file, such as ADM's ``VIRTUAL_imagenet256_labeled.npz``.

    They serve as reference where features are needed: precision, recall, density, coverage. The statistics in
    such a file (``mu``, ``sigma``) are of many more images, and are for the option ``statistics`` of
    ``fidelity``.

    Attributes:
        path: Path or URL of the file.
    """

    path: str

    def splits(self) -> Sequence[str]:
        """``all``: there is one part."""
        return (SPLIT,)

    def identity(self) -> Mapping[str, str]:
        """The file's SHA-256, wherever it lies.

        Raises:
            CheckpointError: when there is no such file.
        """
        return {"class": type(self).__qualname__, "sha256": file_sha256(local_copy(self.path))}

    def load(self, split: str) -> Examples:
        """All images, as one class without a name.

        Raises:
            UsageError: for another split.
            CheckpointError: when there is no such file, or no images in it. Pickles are not opened.
        """
        if split != SPLIT:
            raise UsageError(f"unknown split {split!r} of data 'reference-batch'. Known: {SPLIT}.")
        path = local_copy(self.path)
        try:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
                names = list(arrays.files)
                images = arrays["arr_0"] if "arr_0" in names else None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(
                f"{self.path} is no .npz file of plain arrays: {error}. Nothing in it was executed."
            ) from error
        if images is None:
            raise CheckpointError(
                f"{self.path} holds no images: expected an array 'arr_0', found"
                f" {', '.join(sorted(names)) or 'none'}."
            )
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
            raise CheckpointError(
                f"{self.path}: 'arr_0' must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}."
            )
        labels = torch.zeros(len(images), dtype=torch.long)
        return Examples(images=torch.from_numpy(images).permute(0, 3, 1, 2), labels=labels, classes=("",))
