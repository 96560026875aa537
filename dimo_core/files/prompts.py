"""Prompts to sample: lists of text, and the prompt files of benchmarks."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs import validators as v

from dimo_core import limits
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import told

Layout = Literal["plain", "geneval", "hpsv2"]
"""How pictures are laid out: numbered in one folder, or as the scorers of GenEval and HPSv2 expect them."""

_Found = tuple[str, str, Mapping[str, Any] | None]

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
        UsageError: when a file is missing, empty, or of another form, or a prompt is of absurd length.
    """
    found, seen = list[Prompt](), Counter[str]()
    for text, style, record in (prompt for url in urls for prompt in _read(url)):
        if len(text) > limits.CAPTION:
            place = f"prompt {len(found)} of {', '.join(urls)}"
            raise UsageError(f"{place} has {len(text):,} characters; {limits.CAPTION:,} is the most.")
        found.append(Prompt(text=text, style=style, number=seen[style], record=record))
        seen[style] += 1
    return tuple(found)


def _read(url: str) -> list[_Found]:
    """Text, style and record of each prompt of a file."""
    parent, _, name = url.rpartition("/")
    folder = Folder(parent or ("/" if url.startswith("/") else "."))
    try:
        text = folder.read(name, most=limits.TEXT).decode("utf-8-sig")
    except Exception as error:  # each file system raises its own
        raise UsageError(f"no prompts in {url!r}: {told(error)}") from error
    stem, dot, suffix = name.partition("?")[0].rpartition(".")
    lines = {f"{url}, line {n}": line for n, line in enumerate(text.split("\n"), 1) if line.strip()}
    match suffix.lower() if dot else "txt":
        case "txt":
            found: list[_Found] = [(line.strip(), "", None) for line in lines.values()]
        case "jsonl" | "ndjson":
            found = [_record(where, line) for where, line in lines.items()]
        case "json":
            found = _lists(url, stem, text)
        case _:
            raise UsageError(
                f"{url!r} is none of the prompt files that are sampled: .txt, .jsonl, .ndjson, .json. Shards "
                "are for training: --conditions of `dimo run`."
            )
    if not found:
        raise UsageError(f"no prompts in {url!r}: it is empty")
    return found


def _record(where: str, line: str) -> _Found:
    record = _parsed(where, line)
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UsageError(f"{where}: expected an object with a text 'prompt', got {line[:80]}")
    return record["prompt"], "", record


def _lists(url: str, stem: str, text: str) -> list[_Found]:
    data = _parsed(url, text)
    styles = {stem: data} if isinstance(data, list) else data
    lists = styles.values() if isinstance(styles, dict) else [None]
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in lists):
        raise UsageError(f"{url}: expected a list of prompts, or an object with a list for each style")
    return [(prompt, style, None) for style, texts in styles.items() for prompt in texts]


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON: {error}") from error
