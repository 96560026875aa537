"""``ChatTokenizer``: prompts and conversations to ids, and ids to text, by the folder's own vocabulary.

No code of the folder is run: LLaDA's tokenizer is transformers' ``PreTrainedTokenizerFast``, and Dream's its
``Qwen2Tokenizer``, whatever their files call themselves.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from dimo_core.errors import CheckpointError, UsageError
from dimo_dllm.architecture import Architecture, Family
from dimo_dllm.libraries import library

Message = Mapping[str, str]
"""``role`` and ``content``."""

ENDS: Mapping[Family, str] = {"llada": "<|eot_id|>", "dream": "<|im_end|>"}
"""What ends a turn."""

SYSTEM = "You are a helpful assistant."
"""What Dream is told where a conversation has no message of the system."""


def llada_chat(messages: Sequence[Message]) -> str:
    """A conversation as LLaDA was trained on them, up to where the answer begins."""
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    turns = [f"{header.format(m['role'])}{m['content'].strip()}<|eot_id|>" for m in messages]
    return "".join(["<|startoftext|>", *turns, header.format("assistant")])


def dream_chat(messages: Sequence[Message]) -> str:
    """A conversation as Dream was trained on them, up to where the answer begins."""
    told = messages[0]["role"] == "system"
    whole = [*messages] if told else [{"role": "system", "content": SYSTEM}, *messages]
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in whole]
    return "".join([*turns, "<|im_start|>assistant\n"])


def conversation(raw: Any) -> list[Message]:
    """A raw condition as messages: a text is the user's only one.

    Raises:
        UsageError: for what is neither a text nor a list of messages.
    """
    if isinstance(raw, str):
        return [{"role": "user", "content": raw}]
    if isinstance(raw, list | tuple) and raw and all(map(_is_message, raw)):
        return list(raw)
    raise UsageError(
        f"a condition is a text, or a list of messages with 'role' and 'content', not {str(raw)[:200]!r}"
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))


@attrs.frozen(kw_only=True, eq=False)
class ChatTokenizer:
    """The tokenizer of a folder.

    Attributes:
        tokenizer: That of transformers.
        family: Whose.
        columns: Ids of the network, some of which may stand for no token.
        end: Ids that end an answer: of the text and of the turn.
    """

    tokenizer: Any
    family: Family
    columns: int
    end: tuple[int, ...]

    @classmethod
    def load(cls, a: Architecture, files: Mapping[str, Path], source: str) -> "ChatTokenizer":
        """From its files, by name.

        Args:
            a: The network's sizes and ids.
            files: The files.
            source: Where they were found, for messages.

        Raises:
            CheckpointError: when they are no tokenizer, or one of more ids than the network has.
            MissingLibraryError: if transformers is not installed, or does not load.
        """
        if "tokenizer.json" in files:
            made = library("transformers.tokenization_utils_fast").PreTrainedTokenizerFast
        else:
            made = library("transformers.models.qwen2.tokenization_qwen2").Qwen2Tokenizer
        with tempfile.TemporaryDirectory() as folder:
            for name, path in files.items():
                shutil.copyfile(path, Path(folder) / name)
            try:
                tokenizer = made.from_pretrained(folder, local_files_only=True)
                ids = tokenizer.get_vocab()
            except Exception as error:  # the library's own kinds of errors differ by its version
                raise CheckpointError(f"{source} holds no tokenizer: {error}") from error
        if (most := max(ids.values(), default=-1)) >= a.columns:
            raise CheckpointError(f"the tokenizer of {source} has the id {most}, the network {a.columns} ids")
        end = {a.eos_id, ids.get(ENDS[a.family], a.eos_id)}
        return cls(tokenizer=tokenizer, family=a.family, columns=a.columns, end=tuple(sorted(end)))

    def unused(self) -> tuple[int, ...]:
        """Ids of the network that stand for no token."""
        return tuple(sorted(set(range(self.columns)) - set(self.tokenizer.get_vocab().values())))

    def encode(self, raw: Any, *, chat: bool) -> list[int]:
        """Ids of a condition.

        Args:
            raw: A text, or messages.
            chat: Whether it is put into the template of a conversation: the folder's own where it has one.

        Raises:
            UsageError: for what is neither, and for messages where no template is used.
        """
        if not chat and not isinstance(raw, str):
            conversation(raw)
            raise UsageError("messages need the template of a conversation: use --teacher.chat true")
        return self.plain(self.rendered(conversation(raw)) if chat else raw)

    def rendered(self, messages: Sequence[Message]) -> str:
        """A conversation as one text, up to where the answer begins.

        Raises:
            UsageError: when the folder's template refuses it.
        """
        if not self.tokenizer.chat_template:
            return llada_chat(messages) if self.family == "llada" else dream_chat(messages)
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise errors of their own
            raise UsageError(f"the template of the conversation refuses it: {error}") from error
        return text

    def plain(self, text: str) -> list[int]:
        """Ids of a text as it is."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to where it ends."""
        stop = next((place for place, token in enumerate(ids) if token in self.end), len(ids))
        text: str = self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=False)
        return text
