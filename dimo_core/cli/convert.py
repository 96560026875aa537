"""``dimo convert``: foreign weights into a folder of safetensors and YAML."""

import os
import sys
from collections.abc import Sequence

import yaml

from dimo_core.cli import arguments
from dimo_core.cli.helping import convert_help
from dimo_core.config.layers import from_environment, from_file
from dimo_core.errors import UsageError
from dimo_core.jobs.convert import conversion_of, convert, draft_conversion
from dimo_core.registry import Registry


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo convert``."""
    given = arguments.read(argv, {})
    if given.resume or "dry_run" in given.flags:
        raise UsageError("--resume and --dry-run are options of `dimo run`")
    layers = [from_environment(os.environ, ("teacher", "out")), *map(from_file, given.config), given.layer]
    draft = draft_conversion(layers, Registry.discover())
    if "help" in given.flags:
        sys.stdout.write(convert_help(draft))
        return 0
    job = conversion_of(draft)
    if "print_config" in given.flags:
        sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
        return 0
    convert(job)
    return 0
