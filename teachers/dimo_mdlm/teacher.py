"""The teacher ``mdlm``: network, tokenizer, conditions, recipes and evaluation."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition, Conditioning
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.foreign import read_foreign
from dimo_core.files.urls import from_anywhere
from dimo_core.files.weight_files import is_weights_file, split_key
from dimo_core.files.weights import assign, digest_tensors, sha256, write_tensors
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan, Recipe, Sampling
from dimo_core.teacher import Capability, Preview, Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_mdlm.architecture import Architecture
from dimo_mdlm.files import checked, published, state_of
from dimo_mdlm.network import MdlmNetwork
from dimo_mdlm.packing import packed
from dimo_mdlm.parts import CARD, CONFIG, FORMAT, NETWORK, WHAT_IS_NEEDED, Parts, Wanted, parts_of, pinned
from dimo_mdlm.pretraining import Pretraining, tokenizer_for
from dimo_mdlm.recipes import RECIPES
from dimo_mdlm.samplings import SAMPLINGS
from dimo_mdlm.tokenizer import LOOKED_FOR, Tokenizer

TEXT = "text"
"""The one class of a teacher without classes, and the name of the published scale."""


@attrs.frozen(kw_only=True, slots=False)
class Mdlm(Teacher):
    """A masked diffusion language model with the network of MDLM.

    Attributes:
        checkpoint: Folder of a teacher as ``dimo pretrain`` and ``dimo convert`` write it, a folder with
            config.json and model.safetensors such as hf://kuleshov-group/mdlm-owt, or a weights file, such as
            a checkpoint of Lightning (``FILE::state_dict`` for its weights without the average); a path or
            fsspec URL.
        revision: Commit, tag or branch of a checkpoint hf://OWNER/NAME; null for the main branch.
        tokenizer: Folder with characters.json, tokenizer.json, or vocab.json and merges.txt (GPT-2's); null
            looks beside the weights. Without one, samples are shown as the numbers of their tokens.
        heads: Attention heads of the network in a weights file that does not tell them.
        length: Tokens of a sample; null for what the network was trained with. It takes any length.
        time_conditioning: Whether the network in a weights file is told how much is masked; null for what
            config.json says, else no.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    checkpoint: str | None = attrs.field(default=None, converter=from_anywhere)
    revision: str | None = None
    tokenizer: str | None = attrs.field(default=None, converter=from_anywhere)
    heads: int | None = attrs.field(default=None, validator=v.optional(v.gt(0)))
    length: int | None = attrs.field(default=None, validator=v.optional(v.gt(0)))
    time_conditioning: bool | None = None
    gradient_checkpointing: bool = False

    pretraining_options: ClassVar[type | None] = Pretraining

    @property
    def capabilities(self) -> frozenset[Capability]:  # type: ignore[override]
        """``create`` and ``save``, and ``guidance`` where there are classes, and so a null class."""
        able: frozenset[Capability] = frozenset({"create", "save"})
        return able | {"guidance"} if self.architecture.classes else able

    @cached_property
    def _parts(self) -> Parts:
        if self.checkpoint is None:
            raise CheckpointError(f"the teacher 'mdlm' has no weights of its own. {WHAT_IS_NEEDED}")
        return self._parts_in(pinned(self.checkpoint, self.revision))

    def _parts_in(self, url: str) -> Parts:
        """The parts in a folder or file, with what the options say of them."""
        return parts_of(
            Wanted(
                url=url,
                tokenizer=self.tokenizer,
                heads=self.heads,
                length=self.length,
                timed=self.time_conditioning,
            )
        )

    @property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        return self._parts.architecture

    @cached_property
    def tokens(self) -> TokenSpace:
        """L sites of V codes; the mask id is V."""
        a = self.architecture
        return TokenSpace(length=a.length, codes=a.codes, mask_id=a.codes, modality="text")

    @property
    def conditioning(self) -> Conditioning:
        """Class labels; a teacher without classes has the one class ``text``."""
        return Conditioning(kind="label", classes=tuple(self._parts.card["classes"]) or (TEXT,))

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        found, codes = self._parts.tokenizer(), self.architecture.codes
        if found is not None and found.codes != codes:
            raise CheckpointError(
                f"the tokenizer of {self._source} has {found.codes} tokens, and its network {codes}: name "
                "the one that it was trained with, --teacher.tokenizer"
            )
        return found

    @property
    def _source(self) -> str:
        return self.checkpoint or "the new teacher"

    @cached_property
    def _weights(self) -> Mapping[str, Tensor]:
        return self._parts.network()

    @cached_property
    def _shared(self) -> MdlmNetwork:
        network = self.skeleton()
        assign(network, self._weights, self._source)
        return network.eval().requires_grad_(False)

    def check(self) -> None:
        """Look for the files."""
        self._parts.check()

    def skeleton(self) -> MdlmNetwork:
        """The network without weights."""
        network = MdlmNetwork(self.architecture)
        network.gradient_checkpointing = self.gradient_checkpointing
        return network

    def network(self, *, share: bool = False) -> MdlmNetwork:
        """The network with the teacher's weights."""
        network = self.skeleton().eval()
        if share:
            own = dict(self._shared.named_parameters())
            for name, _ in list(network.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, own[name])
        else:
            assign(network, self._weights, self._source)
        return network

    def read_network(self, url: str) -> Mapping[str, Tensor] | None:
        """Weights of a student, such as those of SDTT and IDLM: a folder's model.safetensors, or a file."""
        folder = Folder(split_key(url)[0])
        file = url if folder.is_file() or is_weights_file(url) else folder.path(NETWORK)
        if file != url and not folder.exists(NETWORK):
            return None
        return checked(state_of(read_foreign(file)), self.architecture, file)

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """Class indices as integers, or what a class is called, to class indices.

        Raises:
            UsageError: for an unknown class.
        """
        indices = range(len(self.conditioning.classes))
        return torch.tensor(
            [c if c in indices else self.conditioning.label(c) for c in raw], dtype=torch.long
        )

    def null_condition(self, c: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The null class.

        Raises:
            UsageError: for a teacher without classes.
        """
        if not self.architecture.classes:
            raise UsageError("this teacher has no classes, and so no null class: use --guidance.scale 1.")
        return torch.full_like(c, self.architecture.classes)

    def packed(self, examples: Examples, *, partial: bool = False) -> Examples:
        """Rows of tokens, of documents that are joined and cut; what is tokens already as it is.

        Raises:
            UsageError: without a tokenizer, and for too little text.
        """
        if examples.lines is None:
            return examples
        if self._tokenizer is None:
            raise UsageError(
                f"{self._source} has no tokenizer, and text is to be read. Name the folder of one with "
                f"--teacher.tokenizer; looked for {LOOKED_FOR}."
            )
        return packed(examples, self.tokens.length, self._tokenizer, partial=partial)

    def tokenizer_identity(self) -> Mapping[str, str]:
        """The SHA-256 of each of the tokenizer's files; nothing without one."""
        files = {} if self._tokenizer is None else self._tokenizer.files
        return {name: sha256(data) for name, data in files.items()}

    def texts(self, x: Tokens, c: Condition) -> tuple[str, ...]:
        """As the tokenizer has it.

        Raises:
            UsageError: without a tokenizer.
        """
        if self._tokenizer is None:
            return super().texts(x, c)
        return tuple(map(self._tokenizer.decode, x.tolist()))

    def preview(self, x: Tokens, c: Condition) -> Preview:
        """Each sample's text on one line, its line ends and control characters written out as escapes."""
        if self._tokenizer is None:
            return super().preview(x, c)
        return Preview(lines=tuple(map(written_out, self.texts(x, c))))

    def frozen_parameters(self) -> tuple[str, ...]:
        """The token embedding."""
        return ("vocab_embed.embedding",)

    @property
    def _scale(self) -> str:
        return TEXT if self.checkpoint is None and "_parts" not in vars(self) else self._parts.card["recipes"]

    def recipes(self) -> Mapping[str, Recipe]:
        """The presets of this teacher's scale."""
        return RECIPES[self._scale]

    def samplings(self) -> Mapping[str, Sampling]:
        """The named samplings of this teacher's scale."""
        return SAMPLINGS[self._scale]

    def evaluation(self) -> EvaluationPlan | None:
        """What ``teacher.yaml`` says."""
        return EvaluationPlan.of_card(self._parts.card["evaluation"], f"{self._source}, {CARD}")

    def provenance(self) -> Mapping[str, str]:
        """Where network and tokenizer came from, and their SHA-256."""
        return dict(self._parts.provenance())

    @classmethod
    def create(
        cls, options: Pretraining, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
    ) -> "Mdlm":
        """A new teacher in memory, of a given tokenizer's tokens or the characters of the examples.

        One with several classes has an embedding for each; the published network has none.

        Raises:
            UsageError: when sizes are impossible, or the examples no texts.
        """
        tokenizer = tokenizer_for(options, examples)
        classes = examples.classes if len(examples.classes) > 1 else ()
        architecture = options.architecture(tokenizer.codes, len(classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MdlmNetwork(architecture)
        plan = evaluation.as_dict() if evaluation else None
        teacher = cls()
        vars(teacher)["_parts"] = Parts(
            architecture=architecture,
            card={"classes": list(classes), "recipes": "small", "evaluation": plan},
            network=network.state_dict,
            tokenizer=lambda: tokenizer,
            check=lambda: None,
            provenance=lambda: {
                NETWORK: digest_tensors(network.state_dict()),
                **{name: sha256(data) for name, data in tokenizer.files.items()},
            },
        )
        return teacher

    def save(self, folder: str, network: Backbone, card: Mapping[str, Any]) -> None:
        """Write ``teacher.yaml`` (last), the published pair of files, and those of the tokenizer."""
        out, digests = Folder(folder), dict[str, str]()
        out.write(CONFIG, (json.dumps(self.architecture.config(), indent=1) + "\n").encode())
        files = {} if self._tokenizer is None else dict(self._tokenizer.files)
        for name, data in files.items():
            out.write(name, data)
            digests[name] = sha256(data)
        digests[NETWORK] = write_tensors(out, NETWORK, published(network.state_dict(), self.architecture))
        own = {"network": attrs.asdict(self.architecture), "tokenizer": list(files), "sha256": digests}
        out.write_yaml(CARD, {"format": FORMAT, **self._parts.card, **own, **card})


def written_out(text: str) -> str:
    """Text on one line: what is not printable as Python writes it, such as ``\\n``."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
