"""``dimo watch``: curves and newest samples of a run in the terminal, while it goes on."""

from collections.abc import Sequence
from contextlib import suppress

from dimo_core.cli.command import Parser, option
from dimo_core.errors import UsageError


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo watch``."""
    parser = Parser(
        "dimo watch",
        "Show the curves and the newest samples of a run in the terminal until it ends. It only reads, from "
        "any machine that sees the folder; Ctrl-C leaves the run alone. Without a terminal it looks once.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a pretraining (path or URL)")
    option(parser, "--every", "SECONDS", "between two looks (default: 5)", type=_seconds, default=5.0)
    option(parser, "--once", "", "look once")
    options = parser.parse_args(argv)

    from dimo_core.files.folder import Folder
    from dimo_core.jobs.watch import watch

    with suppress(KeyboardInterrupt):  # which ends the looking, and nothing else
        watch(Folder(options.run), every=options.every, once=options.once)
    return 0


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 86400:
        raise UsageError(f"--every: expected seconds from 0.1 to 86400, got {text!r}")
    return found
