"""Make the prompts that are shipped, the same wherever they are made, byte for byte.

::

    python -m dimo_scenes.make_prompts FOLDER

``evaluation.jsonl`` holds the held-out prompts, as GenEval writes such; it is part of this package.
``prompts-0000.tar`` and so on are webdataset shards with one training caption in each sample (KEY.txt);
``held_out.txt`` has one held-out prompt a line, the tags in turn. They belong to the embedded teacher of
scenes.
"""

import json
import sys
from itertools import islice
from pathlib import Path

from webdataset import ShardWriter

from dimo_scenes.captions import TAGS
from dimo_scenes.combinations import Choices
from dimo_scenes.drawing import draw_caption, uniforms
from dimo_scenes.evaluation_prompts import MOST, balanced_captions, chosen_captions

SHARDS, COUNT = 4, 2048
"""Number of shards, and of captions in each; all are different."""


def training_prompts(count: int) -> list[str]:
    """The first so many different captions of the training stream of seed 0."""
    found: dict[str, None] = {}
    start = 0
    while len(found) < count:
        for u in uniforms("prompts", 0, start, count).tolist():
            found[draw_caption(u, Choices()).text] = None
        start += count
    return [*islice(found, count)]


def make_prompts(folder: Path) -> None:
    """Write the files."""
    fixed = {"mtime": 0, "user": "", "group": "", "verbose": 0}
    with ShardWriter(str(folder / "prompts-%04d.tar"), maxcount=COUNT, **fixed) as shards:
        for number, text in enumerate(training_prompts(SHARDS * COUNT)):
            shards.write({"__key__": f"{number:06d}", "txt": text})
    lines = [json.dumps(caption.record()) + "\n" for tag in TAGS for caption in chosen_captions(tag)]
    (folder / "evaluation.jsonl").write_text("".join(lines))
    held_out = balanced_captions(MOST * len(TAGS))
    (folder / "held_out.txt").write_text("".join(f"{caption.text}\n" for caption in held_out))


if __name__ == "__main__":
    make_prompts(Path(sys.argv[1]))
