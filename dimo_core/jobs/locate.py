"""What a path leads to: a generator, a run, a teacher, or pictures; and the teacher that goes with it."""

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

import attrs

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section
from dimo_core.config.layers import Layer
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, check_finished, generator_folder, of_card, read_card
from dimo_core.files.images import Listing
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


class _TeacherDraft(Draft):
    """A teacher, and nothing else."""

    keys = ("teacher",)
    defaults, groups = DEFAULTS, MappingProxyType({})

    def outline(self) -> list[Section | None]:
        return [self.choose("teacher")]


def chosen_teacher(layers: Sequence[Layer], registry: Registry, generators: Sequence[str] = ()) -> Teacher:
    """The teacher that options name, or that the first of some generators was distilled from, or the default.

    Args:
        layers: From the lowest to the highest precedence; they hold the key ``teacher`` only.
        registry: The installed plugins.
        generators: Folders of generators, or of runs.

    Raises:
        UsageError: for an unknown teacher, wrong options, or other keys.
        CheckpointError: when there is no generator.
    """
    teacher: Teacher = _TeacherDraft(layers=layers, registry=registry).make()["teacher"]
    if generators and not any("teacher" in layer.data for layer in layers):
        folder = generator_folder(generators[0])
        teacher = of_card(registry, "teacher", read_card(folder)["teacher"], folder)
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
    folder, teacher = Folder(path), chosen_teacher(layers, registry)
    if folder.exists(CARD) or folder.exists("generator", CARD):
        found = generator_folder(path)
        teacher = chosen_teacher(layers, registry, [found.url])
        return Subject(kind="generator", url=found.url, teacher=teacher)
    for place in (folder, folder.sub("teacher")):
        if place.exists(TEACHER):
            return Subject(kind="teacher", url=place.url, teacher=_saved(place, layers, registry))
    check_finished(folder)  # its sheets of samples are no pictures to judge
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
