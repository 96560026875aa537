"""``dimo pretrain``: train a masked diffusion teacher from images."""

from collections.abc import Sequence

from dimo_core.cli.command import SHORT, Command, read
from dimo_core.config.pretrain import KEYS, draft_pretraining, pretraining_of
from dimo_core.errors import UsageError
from dimo_core.jobs.pretrain import pretrain
from dimo_core.registry import Registry

COMMAND = Command(
    prog="dimo pretrain",
    about="Train a masked diffusion teacher from images, with a tokenizer fitted to them. The result is a "
    "folder that --teacher.checkpoint of `dimo run` takes.",
    keys=KEYS,
    draft=draft_pretraining,
    job_of=pretraining_of,
    short={name: path for name, path in SHORT.items() if path[0] == "train"},
    takes=("resume",),
)


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo pretrain``."""
    given, registry = read(argv, COMMAND.short), Registry.discover()
    if "dry_run" in given.flags:
        raise UsageError("--dry-run is an option of `dimo run` only")
    job = COMMAND.job(given, registry)
    if job is not None:
        pretrain(job, registry=registry, resume=bool(given.resume))
    return 0
