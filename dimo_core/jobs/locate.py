"""What a path leads to: a generator, a run, a teacher, or pictures; and the teacher that goes with it."""

import re
from collections.abc import Sequence
from typing import Literal

import attrs

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section
from dimo_core.config.layers import Layer
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, generator_folder, of_card, read_card
    if folder.exists() and Listing.of(path).pictures:
        return Subject(kind="images", url=path, teacher=teacher)
    raise UsageError(
        f"nothing to evaluate in {path!r}. Give a folder with one of: {CARD} (a generator), "
        f"generator/{CARD} (a run), {TEACHER} or teacher/{TEACHER} (a teacher), or pictures. "
        "`dimo compare --teacher NAME` takes a teacher by name."
    )


def _saved(folder: Folder, layers: Sequence[Layer], registry: Registry) -> Teacher:
    """The teacher of a folder that ``Teacher.save`` wrote, with further options if any are given."""
    card = folder.read_yaml(TEACHER)
    marked = re.match(r"dimo-([\w.-]+)/", str(card.get("format") if isinstance(card, dict) else ""))
    given = [named for layer in layers if (named := layer.name("teacher"))]
    name = [marked[1] if marked else "", *given][-1]
    if name not in registry.names("teacher"):
        raise UsageError(
            f"{folder.path(TEACHER)} is of the teacher {name or 'of no known format'!r}. Name the one that "
            f"reads it: --teacher NAME. Known: {', '.join(registry.names('teacher'))}."
        )
    place = Layer(origin=folder.url, data={"teacher": {"name": name, "checkpoint": folder.url}})
    return chosen_teacher([*layers, place], registry)
