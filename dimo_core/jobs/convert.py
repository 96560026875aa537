"""``dimo convert``: foreign weights into the folders that dimo writes, without training anything."""

from collections.abc import Mapping
from typing import Any

import attrs
from loguru import logger

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section
from dimo_core.config.folders import next_folder
from dimo_core.config.layers import from_mapping
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator, versions
from dimo_core.files.owner import owned
from dimo_core.files.weights import check_finite
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
    teacher: Teacher
    generator: GeneratorOptions | None = None
    out: str


def convert(job: Conversion) -> Folder:
    """Read foreign weights strictly, and write a teacher folder or a generator folder.

    Raises:
        UsageError: when the folder is not empty, another process writes to it, or the teacher writes none.
        CheckpointError: when the weights are missing, damaged, or of another model.
        NumericalError: when they hold NaN or infinity.
    """
    with owned(job.out) as folder:
        if folder.strange_names():
            raise UsageError(
                f"{folder.url!r} is not empty, and nothing is overwritten. Choose another --out."
            )
        return _convert(job, folder)


def _convert(job: Conversion, folder: Folder) -> Folder:
    if job.generator is not None:
        source = getattr(job.generator, "init", None)
        if source is None:
            raise UsageError(
                "no file to convert: --generator.init names it. Without it, leave --generator out."
            )
        generator = job.generator.build(job.teacher)
        check_finite(source, generator.backbone.state_dict())
        save_generator(folder, generator, job.teacher, job.config, {"converted_from": source})
        logger.info("generator written: `dimo sample {}` draws from it", folder.url)
        return folder
    if "save" not in job.teacher.capabilities:
        raise UsageError(f"teacher {type(job.teacher).__name__} writes no folders (no capability 'save')")
    card = {"converted_from": dict(job.teacher.provenance()), "versions": versions()}
    network = job.teacher.network()
    check_finite(f"teacher {type(job.teacher).__name__}", network.state_dict())
    job.teacher.save(folder.url, network, card)
    logger.info("teacher written: use it with --teacher.checkpoint {}", folder.url)
    return folder


class ConvertDraft(Draft):
    """How ``dimo convert`` makes its job.

    A generator is converted when files or the command line speak of one. Its x_init, which no weights file
    holds, is that of the teacher's first preset unless told.
    """

    keys = ("teacher", "generator", "out")
    defaults = DEFAULTS

    def outline(self) -> list[Section | None]:
        """The teacher, the generator if one is converted, and the folder."""
        chosen, own = self.choose("teacher"), Section(key="", cls=Own)
        if not any("generator" in layer.data for layer in self.layers if not layer.lenient):
            return [chosen, own]
        generator, teacher = self.choose("generator"), self.first_look(chosen)
        if chosen is not None and teacher is not None:
            recipe = next(iter(teacher.recipes().values()), {})
            origin = f"the first preset of {chosen.title}"
            suggested = from_mapping({"generator": recipe.get("generator", {})}, origin, DEFAULTS)
            self.layers = [suggested, *self.layers]
        return [chosen, generator, own]

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
