"""``dimo convert``: foreign weights into the folders that dimo writes, without training anything."""

from shlex import quote

from loguru import logger

from dimo_core.config.convert import Conversion
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator, versions
from dimo_core.files.owner import owned
from dimo_core.files.weights import check_finite


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
        logger.info("generator written: `dimo sample {}` draws from it", quote(folder.url))
        return folder
    if "save" not in job.teacher.capabilities:
        raise UsageError(f"teacher {type(job.teacher).__name__} writes no folders (no capability 'save')")
    card = {"converted_from": dict(job.teacher.provenance()), "versions": versions()}
    network = job.teacher.network()
    check_finite(f"teacher {type(job.teacher).__name__}", network.state_dict())
    job.teacher.save(folder.url, network, card)
    logger.info("teacher written: use it with --teacher.checkpoint {}", quote(folder.url))
    return folder
