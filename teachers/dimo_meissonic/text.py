"""``PromptEncoder``: prompts to embeddings, by a CLIP text tower of transformers.

A prompt's embedding is a function of the prompt alone, to the last bit: all passes through the tower have one
shape, so no run depends on which prompts were known already, and resuming repeats exactly.
"""

import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from loguru import logger
from torch import Tensor, nn

from dimo_core.device import transfer
from dimo_core.errors import CheckpointError
from dimo_core.files.weights import assign, check_finite
from dimo_meissonic.libraries import library

NEGATIVE_PROMPT = (
    "worst quality, low quality, low res, blurry, distortion, watermark, logo, signature, text, "
    "jpeg artifacts, signature, sketch, duplicate, ugly, identifying mark"
)
"""That of Meissonic's scripts, and of Di[M]O; Meissonic's pipeline alone has the empty prompt."""

PREFIXES = ("text_model.", "text_projection.")
"""Where the text tower is in the weights of a whole CLIP."""

ROWS = 16
"""Prompts in a pass, on an accelerator and through a small tower."""

SMALL = 10_000_000
"""Parameters up to which a tower is small: many prompts in a pass then help on a CPU too."""

_TELLING = ("vocab.json", "tokenizer_config.json", "special_tokens_map.json")

Embedding = tuple[Float[Tensor, "S J"], Float[Tensor, " P"]]
"""Of one prompt: its words, and all of it."""


def text_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The text tower's part of ``config.json``, which may describe a whole CLIP.

    Raises:
        CheckpointError: when it describes no CLIP text tower.
    """
    inner = config.get("text_config", config)
    if not isinstance(inner, Mapping) or "max_position_embeddings" not in inner:
        raise CheckpointError(f"{source} describes no CLIP text tower: no max_position_embeddings")
    own = {**inner}
    if "projection_dim" in config:
        own["projection_dim"] = config["projection_dim"]
    return own


def text_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's tensors; a whole CLIP's image tower and old position tables are left out."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIXES) and not name.endswith(".position_ids")
    }


def load_tower(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """A frozen ``CLIPTextModelWithProjection``.

    Args:
        config: The tower's configuration.
        tensors: Its weights.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: when configuration and weights do not fit.
        NumericalError: when the weights hold NaN or infinity.
        MissingLibraryError: if transformers is not installed, or does not load.
    """
    configuration = library("transformers.models.clip.configuration_clip").CLIPTextConfig
    cls = library("transformers.models.clip.modeling_clip").CLIPTextModelWithProjection
    try:
        with torch.device("meta"):
            tower: nn.Module = cls(configuration.from_dict(dict(config))).float()
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{source}: an impossible CLIP text tower: {error}") from error
    tower.to_empty(device="cpu")
    # The positions 0, 1, 2 ... are a buffer that no file holds.
    for name, buffer in tower.named_buffers():
        assert name.endswith("position_ids"), f"unknown buffer {name}"
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    assign(tower, text_tensors(tensors), source)
    check_finite(source, tower.state_dict())
    return tower.eval().requires_grad_(False)


def padding_token(files: Mapping[str, bytes], source: str) -> str:
    """What fills prompts up: part of every embedding, and not the same in all CLIP tokenizers.

    ``special_tokens_map.json`` overrules ``tokenizer_config.json``, unless the latter has
    ``added_tokens_decoder``: so transformers has read them since the published teacher was made.

    Args:
        files: The tokenizer's files, by name.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: when neither file tells it, or the vocabulary has no such entry.
    """
    try:
        vocabulary, config, marks = (json.loads(files.get(name, b"{}")) for name in _TELLING)
        told = config if "added_tokens_decoder" in config else {**config, **marks}
        token = told.get("pad_token")
        token = token["content"] if isinstance(token, dict) else token
        known = token in vocabulary
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{source} holds no CLIP tokenizer: {error!r}") from error
    if not token:
        raise CheckpointError(
            f"the tokenizer of {source} does not tell its padding token: 'pad_token' is neither in "
            "tokenizer_config.json nor in special_tokens_map.json, or the file is missing. All embeddings "
            "depend on it, so it is not guessed: add the published files, or write it into the former."
        )
    if not known:
        raise CheckpointError(f"the padding token {token!r} of {source} is no entry of its vocab.json")
    return str(token)


def load_tokenizer(files: Mapping[str, bytes], source: str) -> Any:
    """A ``CLIPTokenizer`` from its files, by name.

    Raises:
        CheckpointError: when they are no CLIP tokenizer, or do not tell the padding token.
        MissingLibraryError: if transformers is not installed, or does not load.
    """
    padding = padding_token(files, source)
    cls = library("transformers.models.clip.tokenization_clip").CLIPTokenizer
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            return cls.from_pretrained(folder, local_files_only=True, pad_token=padding)
        except Exception as error:  # the library's own kinds of errors differ by its version
            raise CheckpointError(f"{source} holds no CLIP tokenizer: {error}") from error


SHOWN = 60
"""Characters of a prompt that the log shows."""


class PromptEncoder:
    """Prompts to embeddings; the latest ones are remembered.

    They stay on the tower's device, so that the host need not wait for a prompt that is new.

    Args:
        tower: The text tower; moved to ``device``.
        tokenizer: Its tokenizer.
        device: Where the tower computes.
        remember: How many prompts are remembered at most.
        rows: Prompts in each pass; unused rows are filled up, because matrix products of other shapes round
            otherwise. None for ``ROWS``, but 1 for a large tower on a CPU, which gains nothing by more.
    """

    def __init__(
        self,
        tower: nn.Module,
        tokenizer: Any,
        *,
        device: torch.device,
        remember: int,
        rows: int | None = None,
    ) -> None:
        self.tower, self.tokenizer, self.device = tower.to(device), tokenizer, device
        self.remember = remember
        large = sum(p.numel() for p in tower.parameters()) > SMALL
        self._rows = rows or (1 if large and device.type == "cpu" else ROWS)
        self._known: OrderedDict[str, Embedding] = OrderedDict()
        self._cut_is_told = False

    @property
    def length(self) -> int:
        """Words of a prompt S, begin and end included; longer ones are cut, shorter ones padded."""
        length: int = self.tower.config.max_position_embeddings  # type: ignore[union-attr,assignment]
        return length

    @cached_property
    def rows(self) -> int:
        """Prompts in each pass: as many as wanted, or 1 where a row's place or its neighbours change it.

        Kernels are free to sum in another order in other rows. Whether they do depends on device, library and
        shape, not on values, so that one look is enough, and every process with this device sees the same.
        """
        if self._rows == 1:
            return 1
        size: int = self.tower.config.vocab_size  # type: ignore[union-attr,assignment]
        one = torch.arange(self.length) % size
        alike, beside = one.repeat(self._rows, 1), one.flip(0).repeat(self._rows, 1)
        beside[-1] = one
        expected = [part[:1] for part in self._passed(alike)]
        same = all(bool((part == e).all()) for part, e in zip(self._passed(alike), expected, strict=True))
        last = zip(self._passed(beside), expected, strict=True)
        if same and all(torch.equal(part[-1:], e) for part, e in last):
            return self._rows
        logger.info(
            "on {} an embedding depends on its row in a batch: prompts are embedded singly", self.device
        )
        return 1

    def __call__(self, prompts: Sequence[str]) -> tuple[Float[Tensor, "B S J"], Float[Tensor, "B P"]]:
        """Words before the tower's last layer and without its final norm, and the projected whole."""
        different = list(dict.fromkeys(prompts))
        new = [prompt for prompt in different if prompt not in self._known]
        found = dict(zip(new, self._embedded(new), strict=True)) | {
            prompt: self._known[prompt] for prompt in different if prompt in self._known
        }
        for prompt in different:
            self._known[prompt] = found[prompt]
            self._known.move_to_end(prompt)
        while len(self._known) > self.remember:
            self._known.popitem(last=False)
        text, pooled = zip(*(found[prompt] for prompt in prompts), strict=True)
        return torch.stack(text), torch.stack(pooled)

    def _embedded(self, prompts: Sequence[str]) -> Iterator[Embedding]:
        """The embeddings of prompts, in passes of ``rows``."""
        for start in range(0, len(prompts), self.rows):
            part = list(prompts[start : start + self.rows])
            ids = self.tokenizer(
                [*part, *part[-1:] * (self.rows - len(part))],
                padding="max_length",
                max_length=self.length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            self._tell_cut([text for text, row in zip(part, ids, strict=False) if row[-2] != row[-1]])
            text, pooled = self._passed(ids)
            for row in range(len(part)):
                yield text[row].clone(), pooled[row].clone()  # or else the whole pass would be remembered

    def _tell_cut(self, full: Sequence[str]) -> None:
        """Log the first prompt that is cut; only those that leave no padding can be."""
        for prompt in () if self._cut_is_told else full:
            count = len(self.tokenizer(prompt, verbose=False).input_ids)
            if count > self.length:
                self._cut_is_told = True
                shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
                text = "the text tower reads {} words and cuts the rest: {!r} has {} (others are not named)"
                logger.warning(text, self.length, shown, count)
                return

    @torch.no_grad()
    def _passed(self, ids: Int[Tensor, "R S"]) -> tuple[Float[Tensor, "R S J"], Float[Tensor, "R P"]]:
        with torch.autocast(self.device.type, enabled=False):
            out = self.tower(input_ids=transfer(ids, self.device), output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds
