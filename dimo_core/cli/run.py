"""``dimo run``: distil a teacher into a one-step generator."""

import os
import sys
from collections.abc import Sequence

import yaml

from dimo_core.cli import arguments
from dimo_core.cli.helping import run_help
from dimo_core.config.distil import KEYS, draft_job, job_of
from dimo_core.config.layers import from_environment, from_file
from dimo_core.config.resume import resumed
from dimo_core.errors import UsageError
from dimo_core.registry import Registry


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo run``."""
    given = arguments.read(argv)
    registry = Registry.discover()
    explicit = [*map(from_file, given.config), given.layer]
    if given.resume and "help" not in given.flags:
        if "dry_run" in given.flags:
            raise UsageError("--dry-run starts nothing and --resume continues a run: give one of them")
        job = resumed(given.resume, explicit, lambda all_: job_of(draft_job(all_, registry, presets=False)))
    else:
        layers = [from_environment(os.environ, KEYS), *explicit]
        draft = draft_job(layers, registry, short=[*arguments.SHORT])
        if "help" in given.flags:
            sys.stdout.write(run_help(draft))
            return 0
        job = job_of(draft)
    if "print_config" in given.flags:
        sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
        return 0

    from dimo_core.jobs.distil import run
    from dimo_core.jobs.dry_run import dry_run

    if "dry_run" in given.flags:
        dry_run(job)
    else:
        run(job, registry=registry, resume=bool(given.resume))
    return 0
