"""The published folder: ``config.json``, weights in shards, a tokenizer; read without any code of it.

The folders on the Hub name Python files of their own, which are never fetched. Weights are safetensors, and
go from their file into the network one tensor at a time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import check_folder, is_there, local_copy
from dimo_core.files.digests import remembered_sha256
from dimo_core.files.folder import Folder
from dimo_core.files.weight_files import INDEX, shards
from dimo_core.files.weights import check_shapes
from dimo_dllm.adapter_card import WEIGHTS as ADAPTER
from dimo_dllm.architecture import Architecture, Family

CONFIG, WEIGHTS = "config.json", "model.safetensors"

TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
"""Files with the vocabulary: the first alone, or the other two."""

DETAILS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files of the tokenizer that need not be there."""

WHERE: Mapping[Family, str] = {
    "llada": "hf://GSAI-ML/LLaDA-8B-Instruct (16 GB)",
    "dream": "hf://Dream-org/Dream-v0-Instruct-7B (15 GB)",
}
"""What was published."""


def needed(family: Family) -> str:
    """What a folder of the family holds, and where to find one."""
    return (
        f"Of a folder as it was published, such as {WHERE[family]}, are needed: {CONFIG}; {WEIGHTS}, or "
        f"{WEIGHTS}{INDEX} and its shards; tokenizer.json, or vocab.json and merges.txt; "
        f"tokenizer_config.json. Give the folder, or its URL, as --teacher.path."
    )


@attrs.frozen(kw_only=True, slots=False)
class Published:
    """A teacher folder.

    Attributes:
        family: Whose.
        folder: Where it is.
    """

    family: Family
    folder: Folder

    @cached_property
    def architecture(self) -> Architecture:
        """Sizes of the network.

        Raises:
            CheckpointError: when there is no configuration, or one of another network.
        """
        source = self.folder.path(CONFIG)
        check_folder(self.folder.url, needed(self.family))
        if not is_there(source, certain=True):
            raise CheckpointError(f"no file {source}. {needed(self.family)}")
        try:
            config = json.loads(local_copy(source).read_bytes())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{source} is no JSON: {error}") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{source} is no JSON object")
        return Architecture.from_config(self.family, config, source)

    @cached_property
    def weights(self) -> Mapping[str, tuple[str, ...]]:
        """The weight files, and which tensors the index says to be in each; none where there is no index.

        Raises:
            CheckpointError: when there are none.
        """
        index, single = self.folder.path(f"{WEIGHTS}{INDEX}"), self.folder.path(WEIGHTS)
        if is_there(index, certain=True):
            if (found := shards(index)) is None:
                raise CheckpointError(f"{index} is no index of shards. Fetch it again.")
            return {url: tuple(names) for url, names in found.items()}
        if is_there(single, certain=True):
            return {single: ()}
        raise CheckpointError(f"no weights in {self.folder.url}. {needed(self.family)}")

    def check(self) -> None:
        """Look whether every file is there; remote shards are not fetched.

        Raises:
            CheckpointError: when one is missing.
        """
        assert self.architecture, "it is checked when it is made"
        for url in self.weights:
            if not is_there(url, certain=True):
                raise CheckpointError(f"no file {url}, which the index names. Fetch it, or the index again.")
        self.tokenizer_files()

    def tensors(self, own: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Tensor]]:
        """The weights by transformers' names, one at a time; each is read once.

        Args:
            own: Names and shapes of the network.

        Raises:
            CheckpointError: when a file is damaged, or names and shapes are not exactly those. That is
                found before the first tensor is read.
        """
        names = {self.architecture.published_name(name): name for name in own}
        found = dict[str, Sequence[int]]()
        for url, indexed in self.weights.items():
            with _opened(url) as file:
                inside = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            _check_index(url, indexed, inside)
            found |= inside
        check_shapes({name: own[mine] for name, mine in names.items()}, found, self.folder.url)
        for url in self.weights:
            with _opened(url) as file:
                for name in file.keys():  # noqa: SIM118  # no mapping, but a file
                    yield names[name], file.get_tensor(name)

    @torch.no_grad()
    def fill(self, network: nn.Module) -> None:
        """Read the weights into a network, whose dtypes are kept.

        Raises:
            CheckpointError: as ``tensors``.
        """
        own = dict(network.named_parameters())
        for name, tensor in self.tensors({name: p.shape for name, p in own.items()}):
            own[name].copy_(tensor)

    def tokenizer_files(self) -> dict[str, Path]:
        """The tokenizer's files on this machine, by name.

        Raises:
            CheckpointError: when there is no vocabulary.
        """
        there = [name for name in TOKENIZER if is_there(self.folder.path(name), certain=True)]
        if TOKENIZER[0] not in there and there != [*TOKENIZER[1:]]:
            raise CheckpointError(f"no tokenizer in {self.folder.url}. {needed(self.family)}")
        names = [*there, *(name for name in DETAILS if is_there(self.folder.path(name)))]
        return {name: local_copy(self.folder.path(name)) for name in names}

    def provenance(self) -> dict[str, str]:
        """The folder, and the SHA-256 of each file that was or would be read."""
        files = {CONFIG: self.folder.path(CONFIG), **{url.rpartition("/")[2]: url for url in self.weights}}
        return {
            "folder": self.folder.url,
            **{name: remembered_sha256(local_copy(url)) for name, url in files.items()},
            **self.tokenizer_identity(),
        }

    def tokenizer_identity(self) -> dict[str, str]:
        """The SHA-256 of each of the tokenizer's files."""
        return {name: remembered_sha256(path) for name, path in self.tokenizer_files().items()}


def adapter_digest(url: str) -> str:
    """The SHA-256 of the tensors of an adapter."""
    return remembered_sha256(local_copy(Folder(url).path(ADAPTER)))


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """A safetensors file, from this machine's cache where it is remote."""
    try:
        with safe_open(local_copy(url), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{url} is no safetensors file, or a damaged one: {error}") from error


def _check_index(url: str, named: tuple[str, ...], inside: Mapping[str, object]) -> None:
    """A shard holds what the index says, no less and no more: so no tensor is read twice, nor left out."""
    wrong = sorted(set(named) ^ inside.keys()) if named else []
    if wrong:
        raise CheckpointError(
            f"{url} is not the shard that the index describes: {wrong[0]!r} is in one of the two only, as "
            f"are {len(wrong) - 1} others. Fetch the shards and their index again."
        )
