"""The teacher ``maskgit``: transformer, tokenizer, conditions, recipes and evaluation."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Conditioning
from dimo_core.errors import CheckpointError, ConfigError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import from_anywhere
from dimo_core.files.weight_files import is_weights_file
from dimo_core.files.weights import assign, check_finite, write_tensors
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan, Recipe, Sampling
from dimo_core.teacher import Capability, Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_maskgit.parts import (
    CARD,
    FORMAT,
    NETWORK,
    TOKENIZER,
    Parts,
    digest_of,
    folder_parts,
    published_parts,
)
from dimo_maskgit.pretraining import Pretraining, tokenizer_for
from dimo_maskgit.recipes import RECIPES
from dimo_maskgit.samplings import SAMPLINGS
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.transformer import Architecture, MaskTransformer

CREDITS = {
    "embedded teacher": "Apache-2.0, the dimo authors",
    "its data": "CC BY 4.0, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, 1998, "
    "https://doi.org/10.24432/C50P49",
}
"""Licence and author of what the embedded teacher is made of."""


@attrs.frozen(kw_only=True, slots=False)
class MaskGit(Teacher):
    """Class-conditional MaskGIT.

    Attributes:
        checkpoint: Folder of a teacher as ``dimo pretrain`` and ``dimo convert`` write it, or the published
            weights file of a MaskGIT-pytorch v1.0 transformer; a path or fsspec URL. Null takes the
            embedded teacher of handwritten digits.
        tokenizer: The VQGAN that goes with a weights file: Taming's last.ckpt with model.yaml beside it, or
            the folder with both.
        heads: Attention heads of the network in a weights file; known for the published size, needed for
            others.
        class_names: Text file with the class names of a weights file, one a line; null numbers them.
        mask_logit: Whether the head also scores the mask token, as in the released Di[M]O code (keep), or
            only codes (drop).
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    checkpoint: str | None = attrs.field(default=None, converter=from_anywhere)
    tokenizer: str | None = attrs.field(default=None, converter=from_anywhere)
    heads: int | None = attrs.field(default=None, validator=v.optional(v.gt(0)))
    class_names: str | None = attrs.field(default=None, converter=from_anywhere)
    mask_logit: Literal["drop", "keep"] = "drop"
    gradient_checkpointing: bool = False

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"guidance", "decode", "encode", "create", "save"}
    )
    pretraining_options: ClassVar[type | None] = Pretraining

    @cached_property
    def _parts(self) -> Parts:
        if self.checkpoint is None:
            return folder_parts(str(files("dimo_maskgit") / "embedded"), "embedded in dimo_maskgit")
        if is_weights_file(self.checkpoint):
            return published_parts(self.checkpoint, self.tokenizer, self.heads, self.class_names)
        for name in ("tokenizer", "heads", "class_names"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"--teacher.{name} goes with a weights file; the folder {self.checkpoint!r} needs it not"
                )
        return folder_parts(self.checkpoint, self.checkpoint)

    @cached_property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        try:
            return Architecture(**self._parts.card["network"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._source}, {CARD}: wrong section 'network': {error}") from error

    @cached_property
    def tokens(self) -> TokenSpace:
        """grid x grid sites of K codes; the mask id is K."""
        a = self.architecture
        return TokenSpace(
            length=a.grid**2,
            codes=a.codes,
            mask_id=a.codes,
            grid=(a.grid, a.grid),
            modality="image",
            scores_mask=self.mask_logit == "keep",
        )

    @property
    def conditioning(self) -> Conditioning:
        """Class labels."""
        return Conditioning(kind="label", classes=tuple(self._parts.card["classes"]))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = self._parts.tokenizer()
        check_finite(f"the tokenizer of {self._source}", tokenizer.state_dict())
        return tokenizer

    @property
    def _source(self) -> str:
        return self.checkpoint or "the embedded teacher"

    @cached_property
    def _weights(self) -> Mapping[str, Tensor]:
        return self._parts.network()

    @cached_property
    def _shared(self) -> MaskTransformer:
        network = self.skeleton()
        assign(network, self._weights, self._source)
        return network.eval().requires_grad_(False)

    def check(self) -> None:
        """Look for the files of network and tokenizer."""
        self._parts.check()

    def skeleton(self) -> MaskTransformer:
        """The transformer without weights."""
        network = MaskTransformer(self.architecture, self.tokens.columns)
        network.transformer.gradient_checkpointing = self.gradient_checkpointing
        return network

    def network(self, *, share: bool = False) -> MaskTransformer:
        """The transformer with the teacher's weights."""
        network = self.skeleton().eval()
        if share:
            own = dict(self._shared.named_parameters())
            for name, _ in list(network.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, own[name])
        else:
            assign(network, self._weights, self._source)
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """Class indices as integers, or what a class is called, to class indices.

        Raises:
            UsageError: for an unknown class.
        """
        indices = range(len(self.conditioning.classes))
        return torch.tensor([c if c in indices else self.conditioning.label(c) for c in raw])

    def null_condition(self, c: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The null class."""
        return torch.full_like(c, self.architecture.classes)

    def decode(self, x: Tokens | Float[Tensor, "B L V"], c: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """Images of the tokenizer; a drawn mask token shows as the last code."""
        return self._tokenizer.to(x.device).decode(x)

    def encode(self, images: Float[Tensor, "B C H W"], c: Int[Tensor, " B"]) -> Tokens:
        """The nearest code of each patch or latent."""
        return self._tokenizer.to(images.device).encode(images)

    def frozen_parameters(self) -> tuple[str, ...]:
        """Embeddings and output bias (released code, ``fix_emb_layer``)."""
        return ("tok_emb.weight", "pos_emb", "bias")

    def recipes(self) -> Mapping[str, Recipe]:
        """The presets of this teacher's scale."""
        return RECIPES[self._parts.card["recipes"]]

    def samplings(self) -> Mapping[str, Sampling]:
        """The named samplings of this teacher's scale."""
        return SAMPLINGS[self._parts.card["recipes"]]

    def evaluation(self) -> EvaluationPlan | None:
        """What ``teacher.yaml`` says."""
        return EvaluationPlan.of_card(self._parts.card["evaluation"], f"{self._source}, {CARD}")

    def provenance(self) -> Mapping[str, str]:
        """Where network and tokenizer came from, and their SHA-256."""
        return dict(self._parts.provenance())

    def credits(self) -> Mapping[str, str]:
        """Those of the embedded teacher."""
        return CREDITS if self.checkpoint is None else {}

    def tokenizer_identity(self) -> Mapping[str, str]:
        """The SHA-256 of the tokenizer's file."""
        return {TOKENIZER: self._parts.provenance()[TOKENIZER]}

    @classmethod
    def create(
        cls, options: Pretraining, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
    ) -> "MaskGit":
        """A new teacher in memory, with the given tokenizer or with a codebook fitted to the examples.

        Raises:
            UsageError: when images and tokenizer do not fit.
        """
        tokenizer = tokenizer_for(options, examples, seed)
        architecture = options.architecture(tokenizer, len(examples.classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MaskTransformer(architecture, architecture.codes)
            torch.nn.init.normal_(network.tok_emb.weight, std=options.embedding_std)
        card = {
            "format": FORMAT,
            "network": attrs.asdict(architecture),
            "tokenizer": tokenizer.spec(),
            "classes": list(examples.classes),
            "recipes": "small" if tokenizer.kind == "patches" else "imagenet",
            "evaluation": evaluation.as_dict() if evaluation else None,
        }
        return cls._assembled(card, network, tokenizer)

    @classmethod
    def _assembled(cls, card: Mapping[str, Any], network: MaskTransformer, tokenizer: Tokenizer) -> "MaskGit":
        """A teacher whose parts are in memory; they take the place of those read from a folder."""
        teacher = cls()
        vars(teacher)["_parts"] = Parts(
            card=card,
            network=network.state_dict,
            tokenizer=lambda: tokenizer,
            provenance=lambda: digest_of(tokenizer),
            check=lambda: None,
        )
        return teacher

    def save(self, folder: str, network: Backbone, card: Mapping[str, Any]) -> None:
        """Write ``teacher.yaml`` (last), ``network.safetensors`` and ``tokenizer.safetensors``."""
        out, files = Folder(folder), {NETWORK: network, TOKENIZER: self._tokenizer}
        digests = {name: write_tensors(out, name, module.state_dict()) for name, module in files.items()}
        out.write_yaml(CARD, {**self._parts.card, "sha256": digests, **card})
