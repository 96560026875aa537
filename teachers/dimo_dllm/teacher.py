"""The teachers ``llada`` and ``dream``: an answer to a prompt."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import from_anywhere
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan, Recipe, Sampling
from dimo_core.teacher import Capability, Preview, Teacher
from dimo_core.tokens import Tokens
from dimo_dllm.adapter_card import WEIGHTS
from dimo_dllm.architecture import Architecture, Family
from dimo_dllm.conditions import AnswerSpace
from dimo_dllm.files import CONFIG, Published, adapter_digest, needed
from dimo_dllm.recipes import advice, recipes
from dimo_dllm.samplings import samplings
from dimo_dllm.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from dimo_dllm.network import DllmNetwork

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@attrs.frozen(kw_only=True, slots=False)
class DllmTeacher(Teacher):
    """A large masked diffusion language model.

    Attributes:
        path: The published folder, a path or fsspec URL such as hf://GSAI-ML/LLaDA-8B-Instruct.
        prompt: Tokens that are kept for a prompt, template included; shorter ones are padded on the left.
        answer: Tokens of an answer.
        chat: Whether prompts are put into the template of a conversation; false takes them as they are, for
            base models.
        dtype: Format of the weights: bf16, as published, or fp32.
        adapter: Folder of a plain LoRA of peft whose changes are added to the weights: what ``dimo adapter``
            wrote, or a published student of this teacher; null for none.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    path: str | None = attrs.field(default=None, converter=from_anywhere)
    prompt: int = attrs.field(default=256, validator=v.ge(1))
    answer: int = attrs.field(default=256, validator=v.ge(1))
    chat: bool = True
    dtype: Literal["bf16", "fp32"] = attrs.field(default="bf16", validator=v.in_(DTYPES))
    adapter: str | None = attrs.field(default=None, converter=from_anywhere)
    gradient_checkpointing: bool = False

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"guidance"})
    family: ClassVar[Family]

    @cached_property
    def _published(self) -> Published:
        if self.path is None:
            raise CheckpointError(
                f"the teacher {self.family!r} does not ship with dimo. {needed(self.family)}"
            )
        return Published(family=self.family, folder=Folder(self.path))

    @property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        return self._published.architecture

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """The folder's."""
        files = self._published.tokenizer_files()
        return ChatTokenizer.load(self.architecture, files, self._published.folder.url)

    @cached_property
    def tokens(self) -> AnswerSpace:
        """Prompt and answer; ids without a token are never drawn, nor is the mask."""
        unused, end = self.tokenizer.unused(), self.architecture.eos_id
        return AnswerSpace(
            length=self.prompt + self.answer,
            answer=self.answer,
            codes=self.architecture.columns,
            mask_id=self.architecture.mask_id,
            forbidden=unused,
            end=None if end in unused else end,
            modality="text",
        )

    @property
    def conditioning(self) -> Conditioning:
        """Prompts."""
        return Conditioning(kind="text")

    def check(self) -> None:
        """Look for every file, those of the adapter too."""
        self._published.check()
        assert self.tokens, "the tokenizer is read"
        if self.adapter is not None:
            from dimo_dllm.adapted import adapter_scale

            adapter_scale(Folder(self.adapter))

    @cached_property
    def _shared(self) -> "DllmNetwork":
        return self.network().requires_grad_(False)

    def skeleton(self) -> "DllmNetwork":
        """The network without weights; its memory, if it has any, is not initialised.

        Raises:
            MissingLibraryError: when transformers does not load, or computes another network.
        """
        from dimo_dllm.network import DllmNetwork, require_bidirectional

        require_bidirectional(self.architecture)
        device = torch.empty(0).device
        with torch.device("meta"):
            network = DllmNetwork(
                self.architecture, self.tokens, gradient_checkpointing=self.gradient_checkpointing
            ).to(DTYPES[self.dtype])
        return network if device.type == "meta" else network.to_empty(device=device)

    def network(self, *, share: bool = False) -> "DllmNetwork":
        """The network with the teacher's weights, which are read one tensor at a time."""
        if not share:
            network = self.skeleton().eval()
            self._published.fill(network)
            if self.adapter is not None:
                from dimo_dllm.adapted import add_adapter

                add_adapter(network, self.architecture, Folder(self.adapter))
            return network
        own = dict(self._shared.named_parameters())
        with torch.device("meta"):
            network = self.skeleton().eval()
        for name, _ in list(network.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, own[name])
        return network

    def read_network(self, url: str) -> Mapping[str, Tensor] | None:
        """Weights of such a network in a folder of the published layout; None where it has no configuration.

        Raises:
            CheckpointError: when they are damaged, or of another size.
        """
        other = Published(family=self.family, folder=Folder(url))
        if not other.folder.exists(CONFIG):
            return None
        with torch.device("meta"):
            own = {name: p.shape for name, p in self.skeleton().named_parameters()}
        return dict(other.tensors(own))

    def encode_conditions(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Prompts to ``tokens``, ``valid`` and ``attend``, each [B, L].

        Args:
            raw: Each a text, or a list of messages with ``role`` and ``content``.

        Raises:
            UsageError: for what is neither, and for a prompt that is too long.
        """
        ids = [self.tokenizer.encode(one, chat=self.chat) for one in raw]
        return self.tokens.encode(ids, self.architecture.eos_id)

    def condition_skeleton(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """As long as prompts may be."""
        return self.tokens.skeleton(len(raw))

    def null_condition(self, c: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks in place of the prompt."""
        return self.tokens.null(c)

    def describe(self, raw: Any) -> str:
        """A prompt; of a conversation, who says what."""
        return raw if isinstance(raw, str) else " ".join(f"{m['role']}: {m['content']}" for m in raw)

    def tokenize(self, examples: Examples, c: dict[str, Tensor]) -> Tokens:
        """Answers to prompts: tokens as they are, or texts, cut or filled up with the end of text."""
        if examples.lines is None:
            return super().tokenize(examples, c)
        ids = [self.tokenizer.plain(text) for text in examples.lines]
        return self.tokens.answers(c, ids, self.architecture.eos_id)

    def texts(self, x: Tokens, c: dict[str, Tensor]) -> tuple[str, ...]:
        """The answers, each up to its end."""
        return tuple(map(self.tokenizer.decode, x[:, self.prompt :].tolist()))

    def preview(self, x: Tokens, c: dict[str, Tensor]) -> Preview:
        """The answers, each on one line."""
        return Preview(lines=tuple(text.replace("\n", "↵") for text in self.texts(x, c)))

    def frozen_parameters(self) -> tuple[str, ...]:
        """Embedding and head."""
        head = () if self.architecture.tied else ("lm_head.weight",)
        return ("model.embed_tokens.weight", *head)

    def advise(self, config: Mapping[str, Any]) -> Sequence[str]:
        """A warning where a whole network is trained in bf16."""
        return advice(config)

    def recipes(self) -> Mapping[str, Recipe]:
        """``dimo``, ``idlm`` and ``certainty``, with adapters."""
        return recipes(self.family)

    def samplings(self) -> Mapping[str, Sampling]:
        """The family's own."""
        return samplings(self.family, self.answer)

    def evaluation(self) -> EvaluationPlan | None:
        """None: answers are judged by tasks."""
        return None

    def provenance(self) -> Mapping[str, str]:
        """The folder, and the SHA-256 of each file."""
        found = self._published.provenance()
        if self.adapter is not None:
            found |= {"adapter": self.adapter, WEIGHTS: adapter_digest(self.adapter)}
        return found

    def tokenizer_identity(self) -> Mapping[str, str]:
        """The SHA-256 of the tokenizer's files, and what else the tokens of an example hang on."""
        sizes = {name: str(getattr(self, name)) for name in ("prompt", "answer", "chat")}
        return {**self._published.tokenizer_identity(), **sizes}


@attrs.frozen(kw_only=True, slots=False)
class Llada(DllmTeacher):
    """LLaDA-8B (arXiv 2502.09992): an answer to a prompt.

    Attributes:
        path: The published folder, a path or fsspec URL such as hf://GSAI-ML/LLaDA-8B-Instruct.
        prompt: Tokens that are kept for a prompt, template included; shorter ones are padded on the left.
        answer: Tokens of an answer.
        chat: Whether prompts are put into the template of a conversation; false takes them as they are, for
            base models.
        dtype: Format of the weights: bf16, as published, or fp32.
        adapter: Folder of a plain LoRA of peft whose changes are added to the weights: what ``dimo adapter``
            wrote, or a published student of this teacher; null for none.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    family: ClassVar[Family] = "llada"


@attrs.frozen(kw_only=True, slots=False)
class Dream(DllmTeacher):
    """Dream-7B (arXiv 2508.15487): an answer to a prompt.

    Attributes:
        path: The published folder, a path or fsspec URL such as hf://Dream-org/Dream-v0-Instruct-7B.
        prompt: Tokens that are kept for a prompt, template included; shorter ones are padded on the left.
        answer: Tokens of an answer.
        chat: Whether prompts are put into the template of a conversation; false takes them as they are, for
            base models.
        dtype: Format of the weights: bf16, as published, or fp32.
        adapter: Folder of a plain LoRA of peft whose changes are added to the weights: what ``dimo adapter``
            wrote, or a published student of this teacher; null for none.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    family: ClassVar[Family] = "dream"
