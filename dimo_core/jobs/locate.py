"""What a path leads to: a generator, a run, a teacher, or pictures; and the teacher that goes with it."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import choose, complete
from dimo_core.config.layers import Context, Layer
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, generator_folder, of_card, read_card
from dimo_core.files.images import Listing
from dimo_core.options import build
from dimo_core.registry import Registry
from dimo_core.teacher import Teacher

TEACHER = "teacher.yaml"
"""The card of a teacher folder; its ``format`` begins with ``dimo-NAME/``, NAME being the teacher's."""


@attrs.frozen(kw_only=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
        kind: What it is.
        url: Its folder; empty for a teacher by name.
        teacher: The teacher that it is, that it was distilled from, or whose evaluation plan is used.
    """

    kind: Literal["generator", "teacher", "images"]
    url: str
    teacher: Teacher


def chosen_teacher(layers: Sequence[Layer], registry: Registry, default: str | None) -> Teacher | None:
    """The teacher that options name.

    Args:
        layers: From the lowest to the highest precedence; they hold the key ``teacher`` only.
        registry: The installed plugins.
        default: Its name when nobody gives one; None for no teacher then.

    Raises:
        UsageError: for an unknown teacher, wrong options, or other keys.
    """
    context = Context(registry=registry)
    named = any("teacher" in layer.data for layer in layers)
    section = choose("teacher", default or DEFAULTS["teacher"], layers, context)
    teacher: Teacher | None = complete([section], layers, context, ("teacher",)).make().get("teacher")
    return teacher if named or default is not None else None


def teacher_of_generators(paths: Sequence[str], registry: Registry) -> Teacher:
    """The teacher that the first of some generators was distilled from.

    Raises:
        CheckpointError: when there is no generator.
        UsageError: when its teacher is not installed.
    """
    folder = generator_folder(paths[0])
    teacher: Teacher = of_card(registry, "teacher", read_card(folder)["teacher"], folder)
    return teacher


def find_subject(path: str, layers: Sequence[Layer], registry: Registry) -> Subject:
    """Look what is at a path.

    Args:
        path: A folder, by path or URL.
        layers: Options of the teacher, where the path does not tell it.
        registry: The installed plugins.

    Raises:
        UsageError: when it is nothing that can be evaluated.
        CheckpointError: when its files are damaged.
    """
    folder, given = Folder(path), chosen_teacher(layers, registry, None)
    if folder.exists(CARD) or folder.exists("generator", CARD):
        found = generator_folder(path)
        return Subject(
            kind="generator", url=found.url, teacher=given or teacher_of_generators([found.url], registry)
        )
    for place in (folder, folder.sub("teacher")):
        if place.exists(TEACHER):
            return Subject(kind="teacher", url=place.url, teacher=_saved(place, layers, registry))
    if folder.exists() and Listing.of(path).pictures:
        teacher = given or chosen_teacher(layers, registry, DEFAULTS["teacher"])
        assert teacher is not None
        return Subject(kind="images", url=path, teacher=teacher)
    raise UsageError(
        f"nothing to evaluate in {path!r}. Give a folder with one of: {CARD} (a generator), "
        f"generator/{CARD} (a run), {TEACHER} or teacher/{TEACHER} (a teacher), or pictures. "
        "`dimo compare --teacher NAME` takes a teacher by name."
    )


def _saved(folder: Folder, layers: Sequence[Layer], registry: Registry) -> Teacher:
    """The teacher of a folder that ``Teacher.save`` wrote, with further options if any are given."""
    given: Mapping[str, object] = {}
    for layer in layers:
        given = {**given, **layer.data.get("teacher", {})}
    card = folder.read_yaml(TEACHER)
    marked = re.match(r"dimo-([\w.-]+)/", str(card.get("format") if isinstance(card, dict) else ""))
    name = str(given.get("name") or (marked.group(1) if marked else ""))
    if name not in registry.names("teacher"):
        raise UsageError(
            f"{folder.path(TEACHER)} is of the teacher {name or 'of no known format'!r}. Name the one that "
            f"reads it: --teacher NAME. Known: {', '.join(registry.names('teacher'))}."
        )
    options = {key: value for key, value in given.items() if key != "name"}
    teacher: Teacher = build(registry.load("teacher", name), {**options, "checkpoint": folder.url})
    return teacher
