"""``dimo convert``: foreign weights into the folders that dimo writes, without training anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from loguru import logger

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section, choose, complete, first_look, next_folder
from dimo_core.config.layers import Context, Layer, from_mapping
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator, versions
from dimo_core.generator import GeneratorOptions
from dimo_core.teacher import Teacher

KEYS = ("teacher", "generator", "out")
"""Top-level keys of a conversion."""


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
    teacher: Teacher
    generator: GeneratorOptions | None = None
    out: str


def convert(job: Conversion) -> Folder:
    """Read foreign weights strictly, and write a teacher folder or a generator folder.

    Raises:
        UsageError: when the folder is not empty, or the teacher writes no folders.
        CheckpointError: when the weights are missing, damaged, or of another model.
    """
    folder = Folder(job.out)
    if folder.names():
        raise UsageError(f"{folder.url!r} is not empty, and nothing is overwritten. Choose another --out.")
    folder.claim()
    if job.generator is not None:
        source = getattr(job.generator, "init", None)
        if source is None:
            raise UsageError(
                "no file to convert: --generator.init names it. Without it, leave --generator out."
            )
        generator = job.generator.build(job.teacher)
        save_generator(folder, generator, job.teacher, job.config, {"converted_from": source})
        logger.info("generator written: `dimo sample {}` draws from it", folder.url)
        return folder
    if "save" not in job.teacher.capabilities:
        raise UsageError(f"teacher {type(job.teacher).__name__} writes no folders (no capability 'save')")
    card = {"converted_from": dict(job.teacher.provenance()), "versions": versions()}
    job.teacher.save(folder.url, job.teacher.network(), card)
    logger.info("teacher written: use it with --teacher.checkpoint {}", folder.url)
    return folder


def draft_conversion(layers: Sequence[Layer], context: Context) -> Draft:
    """Sections and values of a conversion; a generator is converted when a layer speaks of one.

    A generator's x_init, which no weights file holds, is that of the teacher's first preset unless told.

    Args:
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
    """
    kinds = ["teacher", *(["generator"] if any("generator" in layer.data for layer in layers) else [])]
    sections = [choose(kind, DEFAULTS[kind], layers, context) for kind in kinds]
    chosen = sections[0]
    teacher = first_look(chosen, layers, context) if "generator" in kinds else None
    if chosen is not None and teacher is not None:
        recipe = next(iter(teacher.recipes().values()), {})
        origin = f"the first preset of {chosen.title}"
        layers = [from_mapping({"generator": recipe.get("generator", {})}, origin, DEFAULTS), *layers]
    return complete([*sections, Section(key="", cls=Own)], layers, context, KEYS)


def conversion_of(draft: Draft) -> Conversion:
    """The conversion of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made = draft.make()
    if not any(path[0] in DEFAULTS for path in draft.given):
        raise UsageError(
            "nothing to convert: name the files, such as --teacher.checkpoint FILE. `dimo convert --help` "
            "lists the options."
        )
    names = [section.name for section in draft.sections.values() if section.name]
    return Conversion(**made | {"out": made["out"] or next_folder("converted", *names)})
