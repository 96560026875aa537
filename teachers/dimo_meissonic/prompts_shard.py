"""The training captions that a new teacher's folder holds, as one webdataset shard."""

import io
from collections.abc import Iterable
from itertools import islice

from webdataset import TarWriter

PROMPTS = "prompts.tar"
"""Its name in a teacher folder."""

MOST = 4096
"""Captions in it, at most; a kilobyte each."""


def prompts_shard(captions: Iterable[str]) -> bytes:
    """A tar file with one ``KEY.txt`` for each different caption, the same bytes wherever it is made.

    Args:
        captions: Captions; of equal ones, and of those after the first ``MOST``, no more is written.
    """
    made = io.BytesIO()
    with TarWriter(made, mtime=0, user="", group="") as shard:
        for number, text in enumerate(islice(dict.fromkeys(captions), MOST)):
            shard.write({"__key__": f"{number:06d}", "txt": text})
    return made.getvalue()
