"""Tokens of images or texts that do not fit in memory: a folder that is written shard by shard, once.

::

    plan.json                  data, split, classes, tokenizer, shards; written first
    examples.safetensors       a few images: the teacher is created from them, again and again the same;
                               of texts examples.json, with lines and labels
    shards/00000.safetensors   tokens [N, L] in the smallest integers that hold them, labels [N]
    shards/00000.json          its name, counts, broken images and SHA-256; written after the tensors
    broken.jsonl               every image and shard that could not be read, and why
    manifest.json              written last; without it the cache is unfinished
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from jaxtyping import Int, Integer
from loguru import logger
from torch import Tensor

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.state import as_json, checksum
from dimo_core.files.weights import read_tensors, write_tensors
from dimo_core.options import changed
from dimo_core.sources import Data, Examples, PictureStream, TextStream
from dimo_core.teacher import Teacher

FORMAT = "dimo-tokens/1"
PLAN, EXAMPLES, MANIFEST, BROKEN = "plan.json", "examples.safetensors", "manifest.json", "broken.jsonl"
LINES = "examples.json"

ADVICE = {
    "tokenizer": " A codebook that is fitted anew, with another seed or other --model options, is another"
    " tokenizer: name the one that is meant with --model.tokenizer."
}
"""What else helps when a cache is refused, by what differs."""

KEPT = 10_000
"""Broken images that ``broken.jsonl`` holds."""


@attrs.frozen(kw_only=True)
class EncodedShard:
    """What is known of an encoded shard.

    Attributes:
        name: Its name in the stream.
        pictures: Number of whole pictures.
        sha256: Of its file.
        broken: Key and error of each broken picture.
        lost: Why its rest is lost; empty when it was read to the end.
    """

    name: str
    pictures: int
    sha256: str
    broken: Sequence[Sequence[str]]
    lost: str = ""


@attrs.frozen(kw_only=True, eq=False)
class EncodedExamples:
    """Tokens and labels in memory.

    Attributes:
        tokens: In small integers.
        labels: Class index of each row.
    """

    tokens: Integer[Tensor, "N L"]
    labels: Int[Tensor, " N"]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)


class TokenCache:
    """The cache of one split of one data source, by one tokenizer.

    Args:
        folder: Where it is, or will be.
        data: Where pictures come from.
        split: Which part of them.

    Raises:
        UsageError: when the folder holds tokens of other data, or something else.
    """

    def __init__(self, folder: Folder, data: Data, split: str) -> None:
        self.folder, self.data, self.split = folder, data, split
        self.plan = self._json(PLAN)
        if not self.plan and set(folder.names()) - {EXAMPLES, LINES}:
            raise UsageError(f"{folder.url!r} is not empty and holds no tokens. Choose another --tokens.")
        if self.plan and self.plan.get("format") != FORMAT:
            raise UsageError(f"{folder.path(PLAN)} is not of the format {FORMAT!r}. Choose another --tokens.")
        if self.plan:
            self._check({"data": as_json(data.identity()), "split": split})

    @property
    def finished(self) -> bool:
        """Whether every shard is encoded; the data is then never looked at."""
        return bool(self.plan) and self.folder.exists(MANIFEST)

    @cached_property
    def stream(self) -> PictureStream | TextStream:
        """The pictures or documents.

        Raises:
            UsageError: when there are none, or others than an unfinished cache was begun with.
        """
        stream = self.data.open(self.split)
        if self.plan:
            self._check({"classes": list(stream.classes), "shards": list(stream.shards)})
        return stream

    def examples(self) -> Examples:
        """A few examples to create a teacher from; always the same ones.

        Raises:
            UsageError: when there is nothing to read.
            CheckpointError: when a file of the cache is missing or damaged.
        """
        if not self.plan:
            return self.stream.sample()
        classes, digest = tuple(self.plan["classes"]), self.plan["examples_sha256"]
        if self.plan["image_shape"] is None:
            found = self.folder.read_json(LINES)
            if checksum(found) != digest:
                raise CheckpointError(f"{self.folder.path(LINES)} is not what was written there")
            return Examples(
                lines=tuple(found["lines"]), labels=torch.tensor(found["labels"]), classes=classes
            )
        stored = read_tensors(self.folder, EXAMPLES, digest)
        return Examples(images=stored["images"], labels=stored["labels"], classes=classes)

    def begin(self, teacher: Teacher, examples: Examples) -> None:
        """Write down what will be encoded, from what ``examples`` gave, or compare with what was.

        Raises:
            UsageError: when the tokens are those of another tokenizer.
        """
        space = {"length": teacher.tokens.length, "codes": teacher.tokens.codes}
        tokenizer = as_json({**teacher.tokenizer_identity(), **space})
        if self.plan:
            self._check({"tokenizer": tokenizer})
            return
        if examples.lines is None:
            shape = list(examples.pictures.shape[1:])
            stored = {"images": examples.pictures, "labels": examples.labels}
            digest = write_tensors(self.folder, EXAMPLES, stored)
        else:
            shape, texts = None, {"lines": list(examples.lines), "labels": examples.labels.tolist()}
            self.folder.write_json(LINES, texts)
            digest = checksum(texts)
        plan = {
            "format": FORMAT,
            "data": as_json(self.data.identity()),
            "split": self.split,
            "tokenizer": tokenizer,
            "classes": list(self.stream.classes),
            "image_shape": shape,
            "examples_sha256": digest,
            "shards": list(self.stream.shards),
        }
        self.folder.write_json(PLAN, plan)
        self.plan = plan

    def shards(self) -> dict[int, EncodedShard]:
        """The encoded shards, by their place in the stream."""
        shards = self.folder.sub("shards")
        files = {int(name[:-5]): name for name in shards.names() if re.fullmatch(r"\d+\.json", name)}
        found, names = dict[int, EncodedShard](), self.plan["shards"]
        for place, name in files.items():
            try:
                facts = shards.read_json(name)
                if facts.get("name") != dict(enumerate(names)).get(place):
                    raise CheckpointError(f"{shards.path(name)} is of another shard than the plan says")
                found[place] = EncodedShard(**facts)
            except CheckpointError as error:
                logger.warning("{}; the shard is encoded again", error)
        return found

    def write(
        self, place: int, tokens: Integer[Tensor, "N L"], labels: Int[Tensor, " N"], facts: Mapping[str, Any]
    ) -> EncodedShard:
        """Keep an encoded shard.

        Args:
            place: Its place in the stream.
            tokens: Of its whole pictures.
            labels: Of the same.
            facts: ``broken`` and ``lost`` as in ``EncodedShard``.
        """
        dtype = smallest(self.plan["tokenizer"]["codes"])
        stored = {"tokens": tokens.to(dtype), "labels": labels.int()}
        digest = write_tensors(self.folder, f"shards/{place:05d}.safetensors", stored)
        name = self.plan["shards"][place]
        shard = EncodedShard(name=name, pictures=len(labels), sha256=digest, **facts)
        self.folder.write_json(f"shards/{place:05d}.json", attrs.asdict(shard))
        return shard

    def finish(self, shards: Sequence[EncodedShard], broken: Sequence[Mapping[str, str]]) -> None:
        """Write ``broken.jsonl`` and the manifest of all shards, which are in the order of the stream."""
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in broken[:KEPT]]
        self.folder.write(BROKEN, "".join(lines).encode())
        self.folder.write_json(
            MANIFEST,
            {
                **{key: self.plan[key] for key in ("format", "data", "split", "tokenizer", "classes")},
                "pictures": sum(shard.pictures for shard in shards),
                "broken": len(broken),
                "lost_shards": [shard.name for shard in shards if shard.lost],
                "shards": {f"{i:05d}.safetensors": [s.pictures, s.sha256] for i, s in enumerate(shards)},
            },
        )

    def load(self) -> EncodedExamples:
        """All tokens of a finished cache.

        Raises:
            CheckpointError: when it is unfinished, or a file is missing or damaged.
        """
        manifest = self._json(MANIFEST)
        if not manifest:
            raise CheckpointError(f"{self.folder.url} is unfinished: it has no {MANIFEST}.")
        space, count = manifest["tokenizer"], manifest["pictures"]
        tokens = torch.empty(count, space["length"], dtype=smallest(space["codes"]))
        labels = torch.empty(count, dtype=torch.long)
        start = 0
        for name, (pictures, digest) in manifest["shards"].items():
            stored = read_tensors(self.folder.sub("shards"), name, digest)
            tokens[start : start + pictures] = stored["tokens"]
            labels[start : start + pictures] = stored["labels"]
            start += pictures
        return EncodedExamples(tokens=tokens, labels=labels)

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON file of the cache; empty when it is missing."""
        return self.folder.read_json(name) if self.folder.exists(name) else {}

    def _check(self, now: Mapping[str, Any]) -> None:
        """Refuse a cache that was begun with something else."""
        for key, value in now.items():
            if self.plan[key] != value:
                raise UsageError(
                    f"the tokens in {self.folder.url!r} are of another {key}:"
                    f" {_difference(self.plan[key], value)}. Choose another --tokens, or remove the folder to"
                    f" encode again.{ADVICE.get(key, '')}"
                )


def smallest(codes: int) -> torch.dtype:
    """The smallest integer type that holds ``codes`` codes."""
    small = torch.uint8 if codes <= 2**8 else torch.int16
    return small if codes <= 2**15 else torch.int32


def _difference(old: Any, new: Any) -> str:
    """What differs, in a few words."""
    if isinstance(old, dict) and isinstance(new, dict):
        return "; ".join(f"{key} was {was!r}, is {now!r}" for key, was, now in changed(old, new))
    if isinstance(old, list) and isinstance(new, list):
        place = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return f"there were {len(old)}, are {len(new)}"
        return f"number {place} of {len(old)} was {old[place]!r}, is {new[place]!r} of {len(new)}"
    return f"was {old!r}, is {new!r}"
