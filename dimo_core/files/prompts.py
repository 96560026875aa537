"""Prompts to sample: lists of text, and the prompt files of benchmarks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import told

Layout = Literal["plain", "geneval", "hpsv2"]
"""How pictures are laid out: numbered in one folder, or as the scorers of GenEval and HPSv2 expect them."""

STYLES = ("anime", "concept-art", "paintings", "photo")
"""The styles of the HPSv2 benchmark."""


@attrs.frozen(kw_only=True)
class Prompt:
    """One prompt of a file.

    Attributes:
        text: The prompt.
        style: Its group, such as a style of HPSv2; empty for none.
        number: Its place within the group.
        record: The whole JSON object it came with; None for plain text.
    """

    text: str
    style: str = ""
    number: int
    record: Mapping[str, Any] | None = None


@attrs.frozen(kw_only=True)
class PromptSet:
    """Prompts, each of which is sampled several times.

    Attributes:
        prompts: In their order.
        each: Samples of every prompt.
        layout: How the pictures are laid out.
    """

    prompts: tuple[Prompt, ...] = attrs.field(validator=v.min_len(1))
    each: int = attrs.field(default=1, validator=v.ge(1))
    layout: Layout = "plain"

    def __attrs_post_init__(self) -> None:
        """Check that the layout suits the prompts.

        Raises:
            UsageError: if it does not.
        """
        if self.layout == "geneval" and any("tag" not in (p.record or {}) for p in self.prompts):
            raise UsageError(
                "the layout 'geneval' needs GenEval's own prompts, a JSON-lines file whose objects have "
                "'tag' and 'prompt' (evaluation_metadata.jsonl)"
            )
        if self.layout == "hpsv2" and (self.each > 1 or any(p.style not in STYLES for p in self.prompts)):
            raise UsageError(
                f"the layout 'hpsv2' takes one sample of each prompt, by style ({', '.join(STYLES)}): give "
                "HPSv2's files STYLE.json, or one JSON file with a list of prompts for each style"
            )

    def conditions(self) -> list[str]:
        """The prompt of each sample."""
        return [prompt.text for prompt in self.prompts for _ in range(self.each)]

    def files(self) -> list[str]:
        """The picture of each sample, relative to the folder."""
        places = [(place, prompt, k) for place, prompt in enumerate(self.prompts) for k in range(self.each)]
        match self.layout:
            case "plain":
                return [f"{i:05d}.png" for i in range(len(places))]
            case "geneval":
                return [f"{place:05d}/samples/{k:05d}.png" for place, _, k in places]
            case "hpsv2":
                return [f"{prompt.style}/{prompt.number:05d}.jpg" for _, prompt, _ in places]

    def extras(self) -> dict[str, bytes]:
        """Further files that the layout asks for."""
        if self.layout != "geneval":
            return {}
        return {
            f"{place:05d}/metadata.jsonl": json.dumps(prompt.record).encode()
            for place, prompt in enumerate(self.prompts)
        }


def read_prompts(urls: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of some files.

    Args:
        urls: Paths or fsspec URLs. A ``.jsonl`` file has an object with ``prompt`` on each line (GenEval); a
            ``.json`` file a list of prompts, whose style is the name of the file, or such a list for each
            style (HPSv2); a ``.txt`` file one prompt on each line.

    Raises:
        UsageError: when a file is missing, empty, or of another form.
    """
    prompts = [prompt for url in urls for prompt in _read(url)]
    numbers: dict[str, int] = {}
    found = []
    for prompt in prompts:
        number = numbers.get(prompt.style, 0)
        numbers[prompt.style] = number + 1
        found.append(attrs.evolve(prompt, number=number))
    return tuple(found)


def _read(url: str) -> Iterator[Prompt]:
    parent, _, name = url.rpartition("/")
    try:
        text = Folder(parent or ".").read(name).decode("utf-8-sig")
    except Exception as error:  # each file system raises its own
        raise UsageError(f"no prompts in {url!r}: {told(error)}") from error
    stem, dot, suffix = name.partition("?")[0].rpartition(".")
    reader = READERS.get(suffix if dot else "txt")
    if reader is None:
        known = ", ".join(f".{suffix}" for suffix in READERS)
        raise UsageError(
            f"{url!r} is none of the prompt files that are sampled: {known}. Shards are for training: "
            "--conditions of `dimo run`."
        )
    prompts = list(reader(url, stem, text))
    if not prompts:
        raise UsageError(f"no prompts in {url!r}: it is empty")
    yield from prompts


def _lines(url: str, stem: str, text: str) -> Iterator[Prompt]:
    for line in filter(None, map(str.strip, text.split("\n"))):
        yield Prompt(text=line, number=0)


def _json_lines(url: str, stem: str, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            record = _parsed(f"{url}, line {number}", line)
            if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
                raise UsageError(
                    f"{url}, line {number}: expected an object with a text 'prompt', got {line[:80]}"
                )
            yield Prompt(text=record["prompt"], number=0, record=record)


def _json(url: str, stem: str, text: str) -> Iterator[Prompt]:
    data = _parsed(url, text)
    styles = {stem: data} if isinstance(data, list) else data
    lists = styles.values() if isinstance(styles, dict) else [None]
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in lists):
        raise UsageError(f"{url}: expected a list of prompts, or an object with a list for each style")
    for style, texts in styles.items():
        for prompt in texts:
            yield Prompt(text=prompt, style=style, number=0)


READERS: Mapping[str, Callable[[str, str, str], Iterator[Prompt]]] = {
    "txt": _lines,
    "jsonl": _json_lines,
    "ndjson": _json_lines,
    "json": _json,
}
"""Readers of prompt files by their ending; a name without one is text."""


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: no JSON: {error}") from error
