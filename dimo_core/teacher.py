"""``Teacher`` (p_phi): the pretrained multi-step model that is distilled."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition, Conditioning
from dimo_core.errors import UsageError
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan, Recipe, Sampling
from dimo_core.tokens import Tokens, TokenSpace

Capability = Literal["guidance", "decode", "encode", "create", "save"]
"""What a teacher may be able to do besides scoring tokens."""


@attrs.frozen(kw_only=True)
class Preview:
    """What people look at: pictures, or lines of text.

    Attributes:
        images: ``uint8 [B, C, H, W]``, C being 1 or 3.
        lines: One line a sample.
    """

    images: UInt8[Tensor, "B C H W"] | None = None
    lines: tuple[str, ...] | None = None


class Teacher(ABC):
    """A masked diffusion model as the core sees it.

    A teacher is a frozen attrs class whose fields are its options; building one is cheap, and weights
    are read when ``network`` or ``decode`` first need them. What it cannot do is missing from
    ``capabilities``, and the method then raises ``UsageError``.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset()

    @property
    @abstractmethod
    def tokens(self) -> TokenSpace:
        """The space of its tokens."""

    @property
    @abstractmethod
    def conditioning(self) -> Conditioning:
        """What raw conditions it takes."""

    @abstractmethod
    def network(self, *, share: bool = False) -> Backbone:
        """A new module tree with the teacher's weights, in eval mode on the CPU.

        Args:
            share: True gives modules whose parameters *are* the tensors of every other shared network of
                this teacher (what is not trained: the teacher's side of a run, and what adapters change),
                wherever one of them was moved to and whatever it was cast to; False gives copies.

        Raises:
            CheckpointError: when the weights are missing, corrupt or of another shape.
        """

    @abstractmethod
    def skeleton(self) -> Backbone:
        """The network without its weights: same modules and shapes, values arbitrary.

        It reads no weights file; under ``torch.device("meta")`` it allocates nothing.
        """

    def read_network(self, url: str) -> Mapping[str, Tensor] | None:
        """Weights of this teacher's network in a foreign folder or file, such as a published generator.

        By name; None when it is of no layout that this teacher knows. A file is then taken as it is.

        Raises:
            CheckpointError: when the weights are damaged, or of another network.
        """
        return None

    def check(self) -> None:
        """Look whether all that it is made of is there, before a run; raises ``CheckpointError`` if not."""
        return

    def on(self, device: torch.device) -> "Teacher":
        """This teacher for work on a device: where it computes what is no network, such as text embeddings.

        The default, ``self``, will do for a teacher that computes no such thing, or where it is told by an
        option. Commands call it with the device of the run before they use the teacher.
        """
        return self

    @abstractmethod
    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        """Raw conditions (labels, prompts) to a condition batch, on the CPU or where they were computed.

        Raises:
            UsageError: for a condition that this teacher does not know.
        """

    def condition_skeleton(self, raw: Sequence[Any]) -> Condition:
        """A condition batch of the right shapes and dtypes, values arbitrary; it may read no weights."""
        return self.encode_conditions(raw)

    def null_condition(self, c: Condition) -> Condition:
        """The unconditional counterpart of each sample (null class, negative prompt).

        Raises:
            UsageError: when the teacher has none (no ``guidance`` capability).
        """
        raise self._cannot("guidance", "use --guidance.scale 1")

    def describe(self, raw: Any) -> str:
        """A raw condition as people read it."""
        classes = self.conditioning.classes
        return classes[int(raw)] if classes and raw not in classes else str(raw)

    def decode(self, x: Tokens | Float[Tensor, "B L V"], c: Condition) -> Float[Tensor, "B C H W"]:
        """Images in [0, 1] from tokens, or from probabilities over the codes where it can.

        Raises:
            UsageError: when the tokens are no images (no ``decode`` capability).
        """
        raise self._cannot("decode", "its samples are tokens")

    def encode(self, images: Float[Tensor, "B C H W"], c: Condition) -> Tokens:
        """Tokens of images in [0, 1].

        Raises:
            UsageError: when there is no encoder (no ``encode`` capability).
        """
        raise self._cannot("encode", "choose a teacher with a tokenizer")

    def packed(self, examples: Examples, *, partial: bool = False) -> Examples:
        """What is learnt from examples: each of them, unless this is overridden.

        A teacher of long texts makes rows of tokens with their labels here: documents are joined and cut, so
        that there are more rows or fewer than ``examples.lines``.

        Args:
            examples: Examples of one kind.
            partial: Whether they are a shard of many, so that what is too little for a row is left out.

        Raises:
            UsageError: when it can make nothing of them.
        """
        return examples

    def tokenize(self, examples: Examples, c: Condition) -> Tokens:
        """Tokens of examples: what is tokens already as it is, images by ``encode``.

        A teacher of texts overrides this, for ``examples.lines``, or ``packed``.

        Args:
            examples: Examples of one kind.
            c: Their conditions, on the device where the images are.

        Raises:
            UsageError: when it cannot make tokens of such examples.
        """
        if examples.tokens is not None:
            return self.tokens.checked(examples.tokens, c)
        if examples.images is not None:
            return self.encode(examples.images / 255, c)
        raise UsageError(
            f"teacher {type(self).__name__} makes no tokens of texts. Choose data of images or tokens with "
            "--data, or a teacher of texts."
        )

    def texts(self, x: Tokens, c: Condition) -> tuple[str, ...]:
        """What samples say, whole: for what reads them. People look at ``preview``.

        Args:
            x: Clean tokens.
            c: Their conditions.

        Raises:
            UsageError: by default: the tokens of this teacher are no text.
        """
        raise UsageError(f"samples of teacher {type(self).__name__} are no text, which this needs")

    def preview(self, x: Tokens, c: Condition) -> Preview:
        """What grids and reports show: decoded images where there are any, else the token ids."""
        if "decode" in self.capabilities:
            return Preview(images=to_uint8(self.decode(x, c)))
        return Preview(lines=tuple(" ".join(map(str, row)) for row in x.tolist()))

    def at_step(self, network: Backbone, step: int, steps: int) -> Backbone:
        """The network as a multi-step sampler calls it in one step.

        For networks that are told which step it is, and not what share is masked: such a teacher returns
        another view of the same weights. ``network`` itself stays as it is.

        Args:
            network: The teacher's network.
            step: Number of the step, from 0.
            steps: How many there are.
        """
        return network

    def frozen_parameters(self) -> tuple[str, ...]:
        """Names of network parameters that generator and auxiliary keep fixed (embeddings, in the paper)."""
        return ()

    def advise(self, config: Mapping[str, Any]) -> Sequence[str]:
        """What is known to go wrong with this resolved configuration; said as warnings before a run.

        Args:
            config: Options by kind of plugin, without the kinds that the objective makes nothing of.
        """
        return ()

    def recipes(self) -> Mapping[str, Recipe]:
        """The named presets (``paper``, ``fast``, ...); the first one is used unless another is chosen.

        A teacher without any is distilled with the defaults of the plugins.
        """
        return {}

    def samplings(self) -> Mapping[str, Sampling]:
        """The named ways to sample it in many steps; `dimo sample` takes the first one unless told another.

        A teacher without any is sampled as its evaluation plan says, and one without a plan in 16 steps of
        the sampler ``maskgit``.
        """
        return {}

    def evaluation(self) -> EvaluationPlan | None:
        """How its samples are judged; None, the default, when nothing is known about them."""
        return None

    def provenance(self) -> Mapping[str, str]:
        """Where each frozen part came from: its URL or path, and its SHA-256."""
        return {}

    def credits(self) -> Mapping[str, str]:
        """Licence and author of what it is made of, by part, for whoever shares what is made of it.

        Nothing by default: nobody has said.
        """
        return {}

    def tokenizer_identity(self) -> Mapping[str, Any]:
        """What tells its tokenizer from every other, such as the SHA-256 of its tensors: plain data.

        Tokens that were encoded once are used again only where this is the same. The default,
        ``provenance()``, will do for a teacher that is read from files.
        """
        return self.provenance()

    @classmethod
    def create(
        cls, options: Any, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
    ) -> "Teacher":
        """An untrained teacher with a tokenizer fitted to ``examples``, for pretraining.

        Args:
            options: An instance of the teacher's ``pretraining_options``.
            examples: The training images.
            evaluation: How its samples will be judged, as the data proposes.
            seed: Seed of the initial weights and of the fit.

        Raises:
            UsageError: when the teacher cannot be pretrained (no ``create`` capability).
        """
        raise UsageError(
            f"{cls.__name__} cannot be pretrained. Choose a teacher with the capability 'create'."
        )

    pretraining_options: ClassVar[type | None] = None
    """The attrs class of architecture and tokenizer options that ``create`` takes."""

    def save(self, folder: str, network: Backbone, card: Mapping[str, Any]) -> None:
        """Write a folder from which this teacher can be loaded again, with ``network``'s weights.

        Raises:
            UsageError: when the teacher cannot be written (no ``save`` capability).
        """
        raise self._cannot("save", "it is used from where it is")

    def _cannot(self, what: Capability, advice: str) -> UsageError:
        return UsageError(f"teacher {type(self).__name__} has no capability {what!r}: {advice}.")


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """Images in [0, 1] to 0 .. 255, clamped, rounded to nearest, halves upwards: floor(255 y + 1/2)."""
    return (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
