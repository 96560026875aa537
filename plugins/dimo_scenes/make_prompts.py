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
from pathlib import Path

from webdataset import ShardWriter

from dimo_scenes.captions import TAGS
from dimo_scenes.combinations import Choices
from dimo_scenes.drawing import draw_caption, uniforms
from dimo_scenes.evaluation_prompts import MOST, balanced_captions, chosen_captions

SHARDS, COUNT = 4, 2048
"""Number of shards, and of captions in each."""


def training_prompts(count: int) -> list[str]:
    """The first captions of the training stream of seed 0.

    They repeat: there are 30 captions of one digit without a colour, and as many as of two digits are wanted.
    """
    return [draw_caption(u, Choices()).text for u in uniforms("prompts", 0, 0, count).tolist()]


def held_out_prompts() -> list[str]:
    """``MOST`` of each tag: all tags in each turn, which begins one tag later than the one before.

    So a few prompts evenly spread over all of them are of several tags.
    """
    texts = [caption.text for caption in balanced_captions(MOST * len(TAGS))]
    turns = [texts[i : i + len(TAGS)] for i in range(0, len(texts), len(TAGS))]
    shifted = ((turn, i % len(TAGS)) for i, turn in enumerate(turns))
    return [text for turn, shift in shifted for text in (*turn[shift:], *turn[:shift])]


def make_prompts(folder: Path) -> None:
    """Write the files."""
    fixed = {"mtime": 0, "user": "", "group": "", "verbose": 0}
    with ShardWriter(str(folder / "prompts-%04d.tar"), maxcount=COUNT, **fixed) as shards:
        for number, text in enumerate(training_prompts(SHARDS * COUNT)):
            shards.write({"__key__": f"{number:06d}", "txt": text})
    lines = [json.dumps(caption.record()) + "\n" for tag in TAGS for caption in chosen_captions(tag)]
    (folder / "evaluation.jsonl").write_text("".join(lines))
    (folder / "held_out.txt").write_text("".join(f"{text}\n" for text in held_out_prompts()))


if __name__ == "__main__":
    make_prompts(Path(sys.argv[1]))
