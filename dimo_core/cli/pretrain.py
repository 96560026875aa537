"""``dimo pretrain``: train a masked diffusion teacher from images."""

import os
import sys
from collections.abc import Sequence

import yaml

from dimo_core.cli import arguments
from dimo_core.cli.helping import pretrain_help
from dimo_core.config.layers import from_environment, from_file
from dimo_core.config.pretrain import KEYS, draft_pretraining, pretraining_of
from dimo_core.config.resume import resumed
from dimo_core.errors import UsageError
from dimo_core.jobs.pretrain import pretrain
from dimo_core.registry import Registry

SHORT = {name: path for name, path in arguments.SHORT.items() if path[0] == "train"}
"""Short forms of this command."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo pretrain``."""
    given = arguments.read(argv, SHORT)
    if "dry_run" in given.flags:
        raise UsageError("--dry-run is an option of `dimo run` only")
    registry = Registry.discover()
    explicit = [*map(from_file, given.config), given.layer]
    if given.resume and "help" not in given.flags:
        job = resumed(given.resume, explicit, lambda all_: pretraining_of(draft_pretraining(all_, registry)))
    else:
        layers = [from_environment(os.environ, KEYS), *explicit]
        draft = draft_pretraining(layers, registry, short=[*SHORT])
        if "help" in given.flags:
            sys.stdout.write(pretrain_help(draft, SHORT))
            return 0
        job = pretraining_of(draft)
    if "print_config" in given.flags:
        sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
        return 0
    pretrain(job, registry=registry, resume=bool(given.resume))
    return 0
