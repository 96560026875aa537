"""From names and options to a conversion; see ``dimo_core.config.distil`` for distillation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section
from dimo_core.config.folders import next_folder
from dimo_core.config.layers import from_mapping
from dimo_core.errors import UsageError

if TYPE_CHECKING:
    from dimo_core.generator import GeneratorOptions
    from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class Own:
    """Options of a conversion that belong to no section.

    Attributes:
        out: Folder to write, a path or fsspec URL. The next free one below runs/ when null.
    """

    out: str | None = None


@attrs.frozen(kw_only=True)
class Conversion:
    """What ``dimo convert`` does.

    Attributes:
        config: The resolved configuration as plain data.
        teacher: The teacher, its options naming foreign files.
        generator: A generator whose ``init`` names a foreign file, converted instead of the teacher; None to
            convert the teacher.
        out: Folder to write, a path or fsspec URL.
    """

    config: Mapping[str, Any]
    teacher: "Teacher"
    generator: "GeneratorOptions | None" = None
    out: str


class ConvertDraft(Draft):
    """How ``dimo convert`` makes its job.

    A generator is converted when files or the command line speak of one. Its x_init, which no weights file
    holds, is that of the teacher's first preset unless told.
    """

    keys = ("teacher", "generator", "out")
    defaults = DEFAULTS
    groups = MappingProxyType({"": Own})

    def outline(self) -> list[Section | None]:
        """The teacher, and the generator if one is converted."""
        chosen = self.choose("teacher")
        if not any("generator" in layer.data for layer in self.layers if not layer.lenient):
            return [chosen]
        generator, teacher = self.choose("generator"), self.first_look(chosen)
        if chosen is not None and teacher is not None:
            recipe = next(iter(teacher.recipes().values()), {})
            origin = f"the first preset of {chosen.title}"
            suggested = from_mapping({"generator": recipe.get("generator", {})}, origin, DEFAULTS)
            self.layers = [suggested, *self.layers]
        return [chosen, generator]

    def job(self) -> Conversion:
        """The job, its folder named."""
        made = self.make()
        if not any(path[0] in DEFAULTS for path in self.given):
            raise UsageError(
                "nothing to convert: name the files, such as --teacher.checkpoint FILE. `dimo convert "
                "--help` lists the options."
            )
        names = [section.name for section in self.sections.values() if section.name]
        return Conversion(**made | {"out": made["out"] or next_folder("converted", *names)})
