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
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.folder import Folder
from dimo_core.sources import Examples
from dimo_core.teacher import Capability, Conditioning, EvaluationPlan, Recipe, Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_core.weights_file import assign, encode_tensors, read_tensors, sha256
from dimo_maskgit.codebook import PatchCodebook, fit_codebook
from dimo_maskgit.recipes import RECIPES
from dimo_maskgit.transformer import Architecture, MaskTransformer

FORMAT = "dimo-maskgit/1"
CARD, NETWORK, TOKENIZER = "teacher.yaml", "network.safetensors", "tokenizer.safetensors"


@attrs.frozen(kw_only=True)
class Pretraining:
    """Architecture and tokenizer of a new MaskGIT teacher.

    Attributes:
        width: Hidden width of the transformer.
        depth: Number of blocks.
        heads: Attention heads.
        mlp: Inner width of the feed-forward layers.
        dropout: Dropout probability in training mode.
        embedding_std: Standard deviation of the initial token embeddings.
        codes: Codebook size, when the codebook is fitted.
        patch: Side of a patch in pixels; the image side must be a multiple of it.
        tokenizer: Folder of a teacher whose codebook is used; null fits one to the training images.
    """

    width: int = attrs.field(default=96, validator=v.gt(0))
    depth: int = attrs.field(default=4, validator=v.gt(0))
    heads: int = attrs.field(default=4, validator=v.gt(0))
    mlp: int = attrs.field(default=384, validator=v.gt(0))
    dropout: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])
    embedding_std: float = attrs.field(default=0.5, validator=v.gt(0))
    codes: int = attrs.field(default=64, validator=v.gt(1))
    patch: int = attrs.field(default=2, validator=v.gt(0))
    tokenizer: str | None = None


@attrs.frozen(kw_only=True, slots=False)
class MaskGit(Teacher):
    """Class-conditional MaskGIT.

    Attributes:
        checkpoint: Folder of a teacher (a path or fsspec URL), as ``dimo pretrain`` writes it; null takes
            the embedded teacher of handwritten digits.
        mask_logit: Whether the head also scores the mask token, as in the released Di[M]O code (keep), or
            only codes (drop).
    """

    checkpoint: str | None = None
    mask_logit: Literal["drop", "keep"] = "drop"

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"guidance", "decode", "encode", "create"})
    pretraining_options: ClassVar[type | None] = Pretraining

    @cached_property
    def _folder(self) -> Folder:
        return Folder(self.checkpoint or str(files("dimo_maskgit") / "embedded"))

    @cached_property
    def _card(self) -> dict[str, Any]:
        try:
            card = self._folder.read_yaml(CARD)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                f"no teacher in {self._folder.url!r}: {CARD} is missing. --teacher.checkpoint takes a folder "
                "written by `dimo pretrain`; leave it out for the embedded teacher."
            ) from error
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise CheckpointError(f"{self._folder.path(CARD)} is not a teacher of the format {FORMAT!r}")
        return card

    @cached_property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        try:
            return Architecture(**self._card["network"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._folder.path(CARD)}: wrong section 'network': {error}") from error

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
        return Conditioning(kind="label", classes=tuple(self._card["classes"]))

    @cached_property
    def _codebook(self) -> PatchCodebook:
        spec = self._card["tokenizer"]
        tensors = read_tensors(self._folder, TOKENIZER, self._card["sha256"][TOKENIZER])
        return PatchCodebook(tensors["rows"], spec["channels"], spec["patch"], spec["side"])

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return read_tensors(self._folder, NETWORK, self._card["sha256"][NETWORK])

    @cached_property
    def _shared(self) -> MaskTransformer:
        network = self.skeleton()
        assign(network, self._weights, self._folder.path(NETWORK))
        return network.eval().requires_grad_(False)

    def skeleton(self) -> MaskTransformer:
        """The transformer without weights."""
        return MaskTransformer(self.architecture, self.tokens.columns)

    def network(self, *, share: bool = False) -> MaskTransformer:
        """The transformer with the teacher's weights."""
        network = self.skeleton().eval()
        if share:
            own = dict(self._shared.named_parameters())
            for name, _ in list(network.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, own[name])
        else:
            assign(network, self._weights, self._folder.path(NETWORK))
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """Class indices, or class names, to class indices.

        Raises:
            UsageError: for an unknown class.
        """
        names = {name: index for index, name in enumerate(self.conditioning.classes)}
        c = [names.get(label, label) for label in raw]
        for label in c:
            if not isinstance(label, int) or not 0 <= label < len(names):
                raise UsageError(
                    f"unknown class {label!r}. Known: 0..{len(names) - 1}, or {', '.join(names)}"
                )
        return torch.tensor(c)

    def null_condition(self, c: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The null class."""
        return torch.full_like(c, self.architecture.classes)

    def decode(self, x: Tokens | Float[Tensor, "B L V"], c: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """Patches of the codebook; a drawn mask token shows as the last code."""
        return self._codebook.to(x.device).decode(x).clamp(0, 1)

    def encode(self, images: Float[Tensor, "B C H W"], c: Int[Tensor, " B"]) -> Tokens:
        """The nearest code of each patch."""
        return self._codebook.to(images.device).encode(images)

    def frozen_parameters(self) -> tuple[str, ...]:
        """Embeddings and output bias (released code, ``fix_emb_layer``)."""
        return ("tok_emb.weight", "pos_emb", "bias")

    def recipes(self) -> Mapping[str, Recipe]:
        """The presets of this teacher's scale."""
        return RECIPES[self._card.get("recipes", "imagenet")]

    def evaluation(self) -> EvaluationPlan | None:
        """What ``teacher.yaml`` says."""
        plan = self._card.get("evaluation")
        return EvaluationPlan.from_dict(plan) if plan else None

    def provenance(self) -> Mapping[str, str]:
        """The folder, and the SHA-256 of network and tokenizer."""
        where = self.checkpoint or "embedded in dimo_maskgit"
        return {"folder": where, **{name: self._card["sha256"][name] for name in (NETWORK, TOKENIZER)}}

    @classmethod
    def create(
        cls, options: Pretraining, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
    ) -> "MaskGit":
        """A new teacher in memory, its codebook fitted to the examples.

        Raises:
            UsageError: when images and patches do not fit.
        """
        _, channels, height, width = examples.images.shape
        if height != width or height % options.patch:
            raise UsageError(
                f"images of {height}x{width} pixels do not divide into patches of {options.patch}"
            )
        if options.tokenizer:
            rows = MaskGit(checkpoint=options.tokenizer)._codebook.rows
        else:
            try:
                rows = fit_codebook(examples.images / 255, options.codes, options.patch, seed=seed)
            except ValueError as error:
                raise UsageError(str(error)) from error
        architecture = Architecture(
            width=options.width,
            depth=options.depth,
            heads=options.heads,
            mlp=options.mlp,
            dropout=options.dropout,
            grid=height // options.patch,
            codes=len(rows),
            classes=len(examples.classes),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MaskTransformer(architecture, architecture.codes)
            torch.nn.init.normal_(network.tok_emb.weight, std=options.embedding_std)
        codebook = PatchCodebook(rows, channels, options.patch, height)
        return cls._assembled(
            {
                "format": FORMAT,
                "network": attrs.asdict(architecture),
                "tokenizer": {"channels": channels, "patch": options.patch, "side": height},
                "classes": list(examples.classes),
                "recipes": "small",
                "evaluation": evaluation.as_dict() if evaluation else None,
            },
            network,
            codebook,
        )

    @classmethod
    def _assembled(cls, card: dict[str, Any], network: MaskTransformer, codebook: PatchCodebook) -> "MaskGit":
        """A teacher whose parts are in memory instead of in a folder."""
        teacher = cls()
        parts = {"_card": card, "_codebook": codebook, "_weights": network.state_dict()}
        vars(teacher).update(parts)
        return teacher

    def save(self, folder: str, network: Backbone, card: Mapping[str, Any]) -> None:
        """Write ``teacher.yaml`` (last), ``network.safetensors`` and ``tokenizer.safetensors``."""
        out = Folder(folder)
        payloads = {
            NETWORK: encode_tensors(network.state_dict()),
            TOKENIZER: encode_tensors({"rows": self._codebook.rows}),
        }
        for name, data in payloads.items():
            out.write(name, data)
        digests = {name: sha256(data) for name, data in payloads.items()}
        out.write_yaml(CARD, {**self._card, "sha256": digests, **card})
