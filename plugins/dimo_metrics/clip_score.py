"""How well images fit their prompts: ``ClipScore``."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.device import find_device
from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_metrics.clip_files import clip_files, digests_of
from dimo_metrics.clip_model import Clip

NAME = "clip-score"


@attrs.frozen(kw_only=True, slots=False)
class ClipScore(Metric):
    """100 max(cos(image, prompt), 0) in the space of a CLIP, averaged (Hessel et al. 2021, arXiv 2104.08718).

    Of the paper's 2.5 max(cos, 0) this is forty times as much, as torchmetrics has it. Numbers of different
    CLIPs do not compare.

    Attributes:
        model: A folder or URL with the published files (config.json, model.safetensors or pytorch_model.bin
            or an index of shards, tokenizer, preprocessor_config.json), or a name on the Hugging Face Hub
            that is in its cache.
        batch_size: Images that pass the network at a time.
        device: Where it computes: auto for the device of the run, or a torch device.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {NAME: "larger"}

    needs: ClassVar[frozenset[str]] = frozenset({"conditions"})

    observes: ClassVar[frozenset[str]] = frozenset({NAME})

    model: str = "openai/clip-vit-base-patch32"
    batch_size: int = attrs.field(default=64, validator=v.gt(0))
    device: str = "auto"

    def observe(self, samples: Samples, teacher: Teacher) -> Mapping[str, Float[Tensor, " N"]]:
        """The score of every sample, in [0, 100]: their mean is the metric.

        Raises:
            CheckpointError: when the CLIP is missing, or its files do not fit one another.
            MissingLibraryError: when transformers cannot be loaded.
            UsageError: when samples have no images, or conditions that are no prompts.
        """
        if samples.images is None or not len(samples) or samples.images.shape[1] not in (1, 3):
            raise UsageError(
                f"metric {NAME!r} looks at images with 1 or 3 channels, and these samples have none."
                " Choose other metrics."
            )
        if others := [c for c in samples.conditions if not isinstance(c, str)]:
            raise UsageError(
                f"metric {NAME!r} compares images with prompts, and the condition {others[0]!r} is none."
                " Choose other metrics for this teacher, such as 'fidelity'."
            )
        parts = [
            self._clip.cosines(
                samples.images[i : i + self.batch_size], samples.conditions[i : i + self.batch_size]
            )
            for i in range(0, len(samples), self.batch_size)
        ]
        return {NAME: 100 * torch.cat(parts).clamp_min(0)}

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``clip-score``; the reference is not needed.

        Raises:
            DimoError: as ``observe``, of samples that were not observed.
        """
        scores = samples.observed.get(NAME)
        if scores is None:
            scores = self.observe(samples, teacher)[NAME]
        return {NAME: scores.double().mean().item()}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files of ``model``.

        Raises:
            CheckpointError: when they are missing.
        """
        return hashlib.sha256("\n".join(digests_of(clip_files(self.model))).encode()).hexdigest()

    @cached_property
    def _clip(self) -> Clip:
        return Clip.load(self.model, find_device(self.device))
