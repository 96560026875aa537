"""The teacher ``meissonic``: transformer, image tokenizer, prompts, recipes and published folders."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from attrs import validators as v
from attrs.converters import optional
from jaxtyping import Float
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Conditioning
from dimo_core.device import find_device
from dimo_core.files.folder import Folder
from dimo_core.files.urls import from_anywhere
from dimo_core.files.weights import assign
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan, Recipe, Sampling
from dimo_core.teacher import Capability, Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_meissonic.architecture import Architecture
from dimo_meissonic.conditions import PromptConditions
from dimo_meissonic.files import CARD, CREDITS, VQVAE
from dimo_meissonic.images import ImageTokenizer
from dimo_meissonic.parts import Parts
from dimo_meissonic.pretraining import Pretraining
from dimo_meissonic.recipes import RECIPES, advice
from dimo_meissonic.samplings import SAMPLINGS
from dimo_meissonic.saving import write_folder
from dimo_meissonic.text import NEGATIVE_PROMPT, PromptEncoder
from dimo_meissonic.timestep import Clock, Convention

if TYPE_CHECKING:
    from dimo_meissonic.transformer import MeissonicTransformer

_SIDES: Any = v.optional(v.deep_iterable(v.ge(1)))
SCORE = 6.0  # the aesthetic score in every published micro-condition


@attrs.frozen(kw_only=True, slots=False)
class Meissonic(Teacher):
    """Text to image with Meissonic: 1024 pixels, 64 x 64 tokens of 8192 codes.

    Attributes:
        checkpoint: The published folder, or one that ``dimo convert`` or ``dimo pretrain`` wrote; a path or
            fsspec URL; null takes the small teacher of scenes that is embedded in the package.
        timestep: What the network is told as its timestep: zero, the index of the sampling step, or 1000
            times the mask ratio. Zero is what the released Di[M]O training used and its generators need.
        timestep_steps: For ``timestep: step_index`` in distillation, where no steps are taken: the number of
            steps of which the index is told that fits the mask ratio. Samplers tell their own steps.
        negative_prompt: The prompt of the guidance's other branch; null takes that of Meissonic's and of
            Di[M]O's scripts, or the empty one for a teacher of ``dimo pretrain``.
        micro_conditions: Width, height, two crops and aesthetic score, as the network is told them; null
            takes the size of the image, no crop and 6, as Di[M]O does.
        text_encoder: Folder of another CLIP text tower, a path or fsspec URL, such as
            laion/CLIP-ViT-H-14-laion2B-s32B-b79K; null takes the folder's own, as Di[M]O does.
        text_device: Where the text tower computes: auto for the device of the run, or a torch device.
        text_cache: Prompts whose embeddings are remembered there at most, 300 kB each (a small one's: 5 kB).
        grid: Rows and columns of tokens; null takes what the network was trained with: 64 x 64, or 32 x 32
            for a network without down-sampling.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    checkpoint: str | None = attrs.field(default=None, converter=from_anywhere)
    timestep: Convention = "zero"
    timestep_steps: int = attrs.field(default=64, validator=v.ge(1))
    negative_prompt: str | None = None
    micro_conditions: tuple[float, float, float, float, float] | None = attrs.field(
        default=None, converter=optional(tuple)
    )
    text_encoder: str | None = attrs.field(default=None, converter=from_anywhere)
    text_device: str = "auto"
    text_cache: int = attrs.field(default=1024, validator=v.ge(1))
    grid: tuple[int, int] | None = attrs.field(default=None, converter=optional(tuple), validator=_SIDES)
    gradient_checkpointing: bool = False

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"guidance", "decode", "encode", "create", "save"}
    )
    pretraining_options: ClassVar[type | None] = Pretraining

    @cached_property
    def _parts(self) -> Parts:
        return Parts(checkpoint=self.checkpoint, text_encoder=self.text_encoder)

    @property
    def _card(self) -> Mapping[str, Any]:
        return self._parts.published.card

    @property
    def _small(self) -> bool:
        return self._card.get("recipes") == "small"

    @property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        return self._parts.architecture

    @cached_property
    def tokens(self) -> TokenSpace:
        """rows x columns sites of V codes; the mask id is the last embedding."""
        a = self.architecture
        height, width = self.grid or tuple(self._card.get("grid", a.default_grid))
        return TokenSpace(
            length=height * width,
            codes=a.codebook_size,
            mask_id=a.mask_id,
            grid=(height, width),
            modality="image",
        )

    @property
    def conditioning(self) -> Conditioning:
        """Prompts."""
        return Conditioning(kind="text")

    @property
    def _sides(self) -> tuple[int, int]:
        assert self.tokens.grid is not None, "tokens of an image have a grid"
        return self.tokens.grid

    @cached_property
    def _micro(self) -> Float[Tensor, " 5"]:
        """Width, height, crops, score."""
        if self.micro_conditions is not None:
            return torch.tensor(self.micro_conditions)
        (height, width), factor = self._sides, self._parts.factor
        return torch.tensor([width * factor, height * factor, 0, 0, SCORE])

    @cached_property
    def _images(self) -> ImageTokenizer:
        return self._parts.images(self._sides)

    @cached_property
    def prompts(self) -> PromptEncoder:
        """Text tower and tokenizer, with the embeddings that they have made."""
        return self._parts.prompts(find_device(self.text_device), self.text_cache)

    @cached_property
    def _conditions(self) -> PromptConditions:
        known = self._card.get("negative_prompt", NEGATIVE_PROMPT)
        negative = known if self.negative_prompt is None else self.negative_prompt
        return PromptConditions(prompts=lambda: self.prompts, negative_prompt=negative, micro=self._micro)

    @cached_property
    def _shared(self) -> "MeissonicTransformer":
        return self.network().requires_grad_(False)

    def check(self) -> None:
        """Look for every part, and for the text tower's device."""
        self._parts.check()
        find_device(self.text_device)

    def skeleton(self) -> "MeissonicTransformer":
        """The transformer without weights; its memory, if it has any, is not initialised."""
        from dimo_meissonic.transformer import MeissonicTransformer

        device = torch.empty(0).device
        with torch.device("meta"):
            network: MeissonicTransformer = MeissonicTransformer(**self.architecture.as_config())
        network.grid = self._sides
        network.clock = Clock(convention=self.timestep, steps=self.timestep_steps)
        network.gradient_checkpointing = self.gradient_checkpointing
        if device.type != "meta":
            network.to_empty(device=device)
        return network

    def network(self, *, share: bool = False) -> "MeissonicTransformer":
        """The transformer with the teacher's weights, in fp32 whatever the file holds."""
        if not share:
            part = self._parts.transformer()
            network = self.skeleton().eval()
            assign(network, part.tensors(), part.source)
            return network
        own = dict(self._shared.named_parameters())
        with torch.device("meta"):
            network = self.skeleton().eval()
        for name, _ in list(network.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, own[name])
        return network

    def at_step(self, network: Backbone, step: int, steps: int) -> Backbone:
        """For ``timestep: step_index``, the same modules under a clock that tells the sampler's own steps."""
        if self.timestep != "step_index":
            return network
        view: Any = copy.copy(network)
        view.clock = Clock(convention="step_index", steps=steps, index=steps - 1 - step)
        view._compiled_call_impl = None  # what is compiled is bound to the clock of the original
        assert isinstance(view, Backbone)
        return view

    def read_network(self, url: str) -> Mapping[str, Tensor] | None:
        """A network as diffusers saves it: the released generators, and those of the authors' training.

        Raises:
            CheckpointError: when there is none, or one of other sizes than the teacher's.
        """
        return self._parts.read_network(url)

    @cached_property
    def _placed(self) -> dict[torch.device, "Meissonic"]:
        return {}

    def on(self, device: torch.device) -> "Meissonic":
        """For ``text_device: auto``, the teacher whose text tower computes there; it has the same parts."""
        if self.text_device != "auto":
            return self
        if device not in self._placed:
            self._placed[device] = attrs.evolve(self, text_device=str(device))
            vars(self._placed[device])["_parts"] = self._parts
        return self._placed[device]

    def encode_conditions(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Prompts, which are texts, to ``text`` [B, S, J], ``pooled`` [B, D] and ``micro`` [B, 5]."""
        return self._conditions.encode(raw)

    def condition_skeleton(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Zeros; the text tower is not read."""
        a, words = self.architecture, self._parts.text_config["max_position_embeddings"]
        return self._conditions.skeleton(len(raw), (words, a.joint_attention_dim), a.width)

    def null_condition(self, c: dict[str, Tensor]) -> dict[str, Tensor]:
        """The negative prompt, with the micro-conditions of each sample."""
        return self._conditions.null(c)

    def decode(self, x: Tokens | Float[Tensor, "B L V"], c: dict[str, Tensor]) -> Float[Tensor, "B C H W"]:
        """Images of the tokenizer."""
        return self._images.to(x.device).decode(x)

    def encode(self, images: Float[Tensor, "B C H W"], c: dict[str, Tensor]) -> Tokens:
        """The nearest code of each site."""
        return self._images.to(images.device).encode(images)

    def frozen_parameters(self) -> tuple[str, ...]:
        """Token embedding and head (released code, ``fix_emb_layer``)."""
        with torch.device("meta"):
            names = dict(self.skeleton().named_parameters())
        return tuple(name for name in names if name.startswith(("embed.", "mlm_layer.")))

    def advise(self, config: Mapping[str, Any]) -> Sequence[str]:
        """A warning for a beta with which the paper's experiments diverged, with the published teacher."""
        return () if self._small else advice(config)

    def recipes(self) -> Mapping[str, Recipe]:
        """``fast`` and ``paper``, of this teacher's scale; with its prompts, if it brings some."""
        recipes = RECIPES["small" if self._small else "published"]
        conditions = {"conditions": found} if (found := self._parts.published.prompts()) else {}
        return {name: {**recipe, **conditions} for name, recipe in recipes.items()}

    def samplings(self) -> Mapping[str, Sampling]:
        """Meissonic's own, and the teacher's rows of the Di[M]O paper; none for a small teacher."""
        return {} if self._small else SAMPLINGS

    def evaluation(self) -> EvaluationPlan | None:
        """What ``teacher.yaml`` says; nothing for a published folder."""
        return EvaluationPlan.of_card(self._card.get("evaluation"), self._parts.published.folder.path(CARD))

    def provenance(self) -> Mapping[str, str]:
        """The folder, and the SHA-256 of each file that was or would be read."""
        return self._parts.provenance()

    def credits(self) -> Mapping[str, str]:
        """Those of the embedded teacher."""
        return CREDITS if self.checkpoint is None else {}

    def tokenizer_identity(self) -> Mapping[str, str]:
        """The SHA-256 of the image tokenizer's weights, and the grid."""
        return {VQVAE: self._parts.published.part(VQVAE).digest(), "grid": "x".join(map(str, self._sides))}

    @classmethod
    def create(
        cls, options: Pretraining, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
    ) -> "Meissonic":
        """A new, small teacher in memory; tokenizer and text tower are fitted to images and captions.

        Raises:
            UsageError: when images have no captions, or do not divide into tokens.
        """
        from dimo_meissonic.creation import new_parts

        teacher = cls(text_cache=len(examples) + 1024)  # its captions, and prompts to judge it by
        vars(teacher)["_parts"] = new_parts(options, examples, evaluation=evaluation, seed=seed)
        return teacher

    def save(self, folder: str, network: Backbone, card: Mapping[str, Any]) -> None:
        """Write the published layout, weights in fp32, and last ``teacher.yaml``."""
        chosen = {} if self.negative_prompt is None else {"negative_prompt": self.negative_prompt}
        write_folder(
            Folder(folder),
            network=network,
            vqvae=self._parts.published.part(VQVAE),
            text=(self._parts.text_config, self._parts.text()),
            vocabulary=self._parts.published.vocabulary(),
            card={**self._parts.published.own_card(), **chosen, "grid": list(self._sides), **card},
        )
