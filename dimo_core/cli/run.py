"""``dimo run``: distil a teacher into a one-step generator."""

from collections.abc import Sequence

from dimo_core.cli.command import SHORT, Command, read
from dimo_core.config.distil import KEYS, draft_job, job_of
from dimo_core.errors import UsageError
from dimo_core.registry import Registry

COMMAND = Command(
    prog="dimo run",
    about="Distil a teacher into a one-step generator. Options follow the chosen plugins: name another "
    "teacher or divergence, and --help shows its options.",
    keys=KEYS,
    draft=draft_job,
    job_of=job_of,
    short=SHORT,
    takes=("preset", "resume", "dry-run"),
)


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo run``."""
    given, registry = read(argv, SHORT), Registry.discover()
    if given.resume and "dry_run" in given.flags and "help" not in given.flags:
        raise UsageError("--dry-run starts nothing and --resume continues a run: give one of them")
    job = COMMAND.job(given, registry)
    if job is None:
        return 0

    from dimo_core.jobs.distil import run
    from dimo_core.jobs.dry_run import dry_run

    if "dry_run" in given.flags:
        dry_run(job)
    else:
        run(job, registry=registry, resume=bool(given.resume))
    return 0
