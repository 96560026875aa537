"""Generator and auxiliary of a run whose trained tensors are adapters."""

from typing import ClassVar

import attrs

from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_weights, read_card, strangers
from dimo_core.files.urls import from_anywhere
from dimo_core.generator import Generator
from dimo_core.method.denoiser import DenoiserOptions, DenoisingAuxiliary
from dimo_core.method.one_step import OneStep, OneStepGenerator, OneStepOptions
from dimo_core.teacher import Teacher
from dimo_lora.adapter import Adapted, Adapter


@attrs.frozen(kw_only=True)
class Lora(Adapter, OneStepOptions):
    """One-step generator with token initialisation (paper, section 3.3), adapters on the teacher's network.

    Attributes:
        init: Folder of a trained generator with the same adapters to continue from; null starts from the
            teacher.
    """

    suggested_as: ClassVar[str] = "one_step"

    init: str | None = attrs.field(default=None, converter=from_anywhere)

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "LoraGenerator":
        """A generator that starts as the teacher, or with the adapters of ``init``.

        Raises:
            UsageError: for targets that the teacher's network does not have.
            CheckpointError: when ``init`` holds no such adapters, or those of another teacher.
            MissingLibraryError: when peft does not load.
        """
        adapted = self.adapt(teacher, skeleton=skeleton)
        if self.init is not None:
            if wrong := strangers(read_card(Folder(self.init)), teacher.provenance()):
                raise CheckpointError(
                    f"the adapters in {self.init!r} were trained on another teacher: the SHA-256 of "
                    f"{', '.join(wrong)} is another. Continue with the teacher that its generator.yaml names."
                )
            load_weights(self.init, adapted.network, teacher, skeleton=skeleton)
        return LoraGenerator(self, teacher, adapted)

    def frame(self, teacher: Teacher) -> "LoraGenerator":
        """The teacher's tensors, and adapters to read the saved ones into."""
        return self.build(teacher)


class LoraGenerator(OneStepGenerator):
    """z_theta = backbone(noisy embeddings of x_init), the backbone being the teacher's with adapters."""

    def __init__(self, options: Lora, teacher: Teacher, adapted: Adapted) -> None:
        super().__init__(options, teacher.tokens, adapted.network)
        self.adapted = adapted

    def merged(self, teacher: Teacher) -> tuple[str, Generator]:
        """The generator ``one_step`` with the sums of the teacher's weights and what was learnt."""
        whole = OneStepGenerator(OneStep(**self.sampling()), self.space, self.adapted.merged(teacher))
        return "one_step", whole.eval()


@attrs.frozen(kw_only=True)
class LoraDenoiser(Adapter, DenoiserOptions):
    """A masked diffusion model of the generator's samples, adapters on the teacher's network."""

    suggested_as: ClassVar[str] = "denoiser"

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> DenoisingAuxiliary:
        """An auxiliary that starts as the teacher.

        Raises:
            UsageError: for targets that the teacher's network does not have.
            MissingLibraryError: when peft does not load.
        """
        return DenoisingAuxiliary(self, self.adapt(teacher, skeleton=skeleton).network)
