"""``dimo export``: a trained generator in another form."""

from collections.abc import Sequence

from dimo_core.cli.command import Parser, option
from dimo_core.errors import UsageError
from dimo_core.texts import shown


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo export``."""
    parser = Parser(
        "dimo export",
        "Write a trained generator in another form. --merge adds what adapters learnt to the teacher's "
        "weights and writes a generator folder of `one_step` that holds all of them.",
    )
    path = "generator folder, or the folder of a run that has one (path or URL)"
    parser.add_argument("path", metavar="GENERATOR", help=path)
    option(parser, "--merge", "", "write whole weights in place of adapters")
    out = "folder to write: empty or missing (default: the next runs/merged-...)"
    option(parser, "--out", "FOLDER", out)
    options = parser.parse_args(argv)
    if not options.merge:
        raise UsageError("say in which form: --merge writes whole weights. It is the only one so far.")

    from dimo_core.config.folders import next_folder
    from dimo_core.jobs.export import export_merged

    name = options.path.rstrip("/").removesuffix("/generator").rpartition("/")[2]
    folder = export_merged(options.path, options.out or next_folder("merged", name or "generator"))
    print(f"generator of whole weights in {shown(folder.url)}")
    return 0
