"""The published folder (``transformer``, ``vqvae``, ``text_encoder``, ``tokenizer``), read without its code.

The folder on the Hub names Python files of its own for diffusers to run. None is fetched: configurations are
JSON, weights safetensors, and both are read here.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import attrs
from loguru import logger
from torch import Tensor

from dimo_core.errors import CheckpointError, StorageError
from dimo_core.files.cache import check_folder, is_there, local_copy
from dimo_core.files.digests import remembered_sha256
from dimo_core.files.folder import Folder
from dimo_core.files.foreign import read_foreign
from dimo_core.files.state import card_of
from dimo_core.files.weight_files import INDEX, shards
from dimo_core.files.weights import read_tensors, sha256

FORMAT = "dimo-meissonic/1"
CARD = "teacher.yaml"
"""Written by `dimo convert` beside the published sub-folders; not part of a published folder."""

OPTIONAL: Mapping[str, type] = {"grid": list, "negative_prompt": str, "prompts": dict, "recipes": str}
"""What the card may hold besides."""

EMBEDDED = "embedded in dimo_meissonic"

CREDITS = {
    "embedded teacher": "Apache-2.0, the dimo authors",
    "its data": "CC BY 4.0, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, 1998, "
    "https://doi.org/10.24432/C50P49",
}
"""Licence and author of what the embedded teacher is made of."""
"""What the teacher that ships with the package is called."""

TRANSFORMER, VQVAE, TEXT, TOKENIZER = "transformer", "vqvae", "text_encoder", "tokenizer"


def _names(stem: str) -> tuple[str, ...]:
    whole, half = f"{stem}.safetensors", f"{stem}.fp16.safetensors"
    return whole, f"{whole}{INDEX}", half, f"{whole}.index.fp16.json"


WEIGHTS: Mapping[str, tuple[str, ...]] = {
    TRANSFORMER: _names("diffusion_pytorch_model"),
    VQVAE: _names("diffusion_pytorch_model"),
    TEXT: (*_names("model"), "pytorch_model.bin", f"pytorch_model.bin{INDEX}"),
}
"""Weight files of each part, or indices of their shards, the best first: fp32, then half precision."""

VOCABULARY = (
    ("vocab.json", True),
    ("merges.txt", True),
    ("tokenizer_config.json", False),
    ("special_tokens_map.json", False),
)
"""Files of the tokenizer, and whether it cannot do without; one of the latter two names the padding token."""

WHAT_IS_NEEDED = """\
The published teacher is the folder MeissonFlow/Meissonic on the Hugging Face Hub, of which are needed:
  transformer/   config.json, diffusion_pytorch_model.safetensors (4.0 GB; or ...fp16.safetensors, 2.0 GB)
  vqvae/         config.json, diffusion_pytorch_model.safetensors (0.6 GB; or ...fp16.safetensors)
  text_encoder/  config.json, model.safetensors (1.4 GB)
  tokenizer/     vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json
Give the folder, or its URL, as --teacher.checkpoint (hf://MeissonFlow/Meissonic, a path, s3:// ...).
The authors' one-step generator is the folder meissonic of Yuanzhi/DiMO (transformer only): give it as
--generator.init, beside --teacher.checkpoint."""


@attrs.frozen(kw_only=True)
class Part:
    """A configuration and the weights that go with it.

    Attributes:
        folder: Where both are.
        weights: Name of the weights file.
        config: The configuration.
        sha256: Digest of the weights file, where it is written down.
    """

    folder: Folder
    weights: str
    config: Mapping[str, Any]
    sha256: str | None = None

    @property
    def source(self) -> str:
        """The weights file, for messages."""
        return self.folder.path(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """The weights, from this machine's cache where the folder is remote.

        Raises:
            CheckpointError: when they are damaged, or not what was written down.
        """
        if not self.weights.endswith(".safetensors"):
            return read_foreign(self.source).state_dict()
        return read_tensors(self.folder, self.weights, self.sha256, cached=True)

    def digest(self) -> str:
        """The SHA-256 of the weights file, or of its shards' digests: as written down, or once computed."""
        if self.sha256:
            return self.sha256
        parts = (shards(self.source) or {}) if self.weights.endswith(".json") else {}
        own, *others = (remembered_sha256(local_copy(url)) for url in (self.source, *parts))
        return sha256(" ".join([own, *others]).encode()) if others else own


@attrs.frozen(kw_only=True)
class Published:
    """A teacher folder.

    Attributes:
        folder: Where it is.
        card: ``teacher.yaml``; empty for a folder as it was published.
        name: What to call it.
    """

    folder: Folder
    card: Mapping[str, Any]
    name: str

    @classmethod
    def open(cls, url: str | None) -> "Published":
        """Look at a folder; weights are not read yet.

        Args:
            url: The folder, a path or fsspec URL; None for the embedded teacher.

        Raises:
            CheckpointError: when there is none, or none of this kind.
        """
        name = url or EMBEDDED
        if url is not None:
            check_folder(url, WHAT_IS_NEEDED)
        folder = Folder(url or str(files("dimo_meissonic") / "embedded"))
        if not is_there(folder.path(CARD)):
            return cls(folder=folder, card={}, name=name)
        card = card_of(
            local_copy(folder.path(CARD)).read_bytes(), folder.path(CARD), FORMAT, {"sha256": dict}
        )
        for key, kind in OPTIONAL.items():
            if not isinstance(card.get(key, kind()), kind):
                raise CheckpointError(
                    f"{folder.path(CARD)} is damaged at the entry {key!r}: take another copy"
                )
        return cls(folder=folder, card=card, name=name)

    def prompts(self) -> dict[str, Any] | None:
        """The conditions ``prompts`` over the files that the card names beside itself; None without any."""
        if not (beside := self.card.get("prompts")):
            return None
        return {"name": "prompts", **{option: self.folder.path(name) for option, name in beside.items()}}

    def own_card(self) -> dict[str, Any]:
        """The card for another folder, into which prompts are not copied."""
        return {name: value for name, value in self.card.items() if name != "prompts"}

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a part; its weights need not be there.

        Raises:
            CheckpointError: when it is missing or unreadable.
        """
        if not is_there(self.folder.path(name, "config.json"), certain=True):
            raise CheckpointError(f"no file {self.folder.path(name, 'config.json')}.\n{WHAT_IS_NEEDED}")
        return read_json(self.folder.path(name, "config.json"))

    def part(self, name: str) -> Part:
        """One of ``transformer``, ``vqvae`` and ``text_encoder``.

        Raises:
            CheckpointError: when a file of it is missing.
        """
        self.config(name)
        found = find_part(self.folder.sub(name), name)
        if found is None:
            names = " or ".join(WEIGHTS[name])
            raise CheckpointError(f"no weights in {self.folder.path(name)}: {names}.\n{WHAT_IS_NEEDED}")
        return attrs.evolve(found, sha256=self.card.get("sha256", {}).get(f"{name}/{found.weights}"))

    def vocabulary(self) -> dict[str, bytes]:
        """The tokenizer's files, by name.

        Raises:
            CheckpointError: when one is missing.
        """
        folder, found = self.folder.sub(TOKENIZER), {}
        for name, needed in VOCABULARY:
            if is_there(folder.path(name), certain=needed):
                digest = self.card.get("sha256", {}).get(f"{TOKENIZER}/{name}")
                found[name] = local_copy(folder.path(name), sha256=digest).read_bytes()
            elif needed:
                raise CheckpointError(f"no file {folder.path(name)}.\n{WHAT_IS_NEEDED}")
        return found


def find_part(folder: Folder, name: str) -> Part | None:
    """Configuration and weights in a folder; None when one of the two is not there.

    Args:
        folder: Where they would be.
        name: Which part of a teacher it is.

    Raises:
        CheckpointError: when the configuration cannot be read.
    """
    if not is_there(folder.path("config.json")):
        return None
    weights = _weights(folder, name)
    if weights is None:
        return None
    return Part(folder=folder, weights=weights, config=read_json(folder.path("config.json")))


def _weights(folder: Folder, name: str) -> str | None:
    """The best weights file of a part that is there, or was fetched before.

    Raises:
        StorageError: when none is found, and a place could not be looked up.
    """
    trouble: StorageError | None = None
    for file in WEIGHTS[name]:
        try:
            if is_there(folder.path(file), certain=True):
                if trouble is not None:
                    logger.warning("{}; {} is used instead", trouble, file)
                return file
        except StorageError as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return None


def read_json(url: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: when it is missing, or none.
    """
    try:
        data = json.loads(local_copy(url).read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{url} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{url} is no JSON object")
    return data
