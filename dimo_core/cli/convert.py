"""``dimo convert``: foreign weights into a folder of safetensors and YAML."""

from collections.abc import Sequence

from dimo_core.cli.command import Command, read
from dimo_core.jobs.convert import conversion_of, convert, draft_conversion
from dimo_core.registry import Registry

COMMAND = Command(
    prog="dimo convert",
    about="Turn foreign weights into a folder of safetensors and YAML: those that the teacher's options "
    "name, or, with --generator.init FILE, those of a published one-step generator of that teacher. Files "
    "are read without executing anything in them, and must fit exactly.",
    keys=("teacher", "out"),
    draft=draft_conversion,
    job_of=conversion_of,
)


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo convert``."""
    job = COMMAND.job(read(argv, COMMAND.short), Registry.discover())
    if job is not None:
        convert(job)
    return 0
