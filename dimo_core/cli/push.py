"""``dimo push``: an export goes to the Hugging Face Hub."""

from collections.abc import Sequence

from dimo_core.cli.command import Parser, option
from dimo_core.texts import shown


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo push``."""
    from rich.filesize import decimal

    options = _parser().parse_args(argv)

    from dimo_core.jobs.push import push

    pushed = push(
        options.path,
        options.url,
        licence=options.license or "",
        create=options.create,
        private=options.private,
        message=options.message or "",
        dry_run=options.dry_run,
    )
    lines = [f"{name}  {decimal(size)}" for name, size in pushed.sizes.items()]
    lines += [f"{name}  deleted" for name in pushed.deleted or ()]
    total = decimal(sum(pushed.sizes.values()))
    end = (
        f"pushed to {pushed.url}: {pushed.commit}" if pushed.commit else f"nothing was pushed to {pushed.url}"
    )
    print("\n".join(map(shown, [*lines, f"{len(pushed.sizes)} files, {total}; {end}"])))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dimo push",
        "Push an export to a repository of the Hugging Face Hub, in one commit. A generator or a run is "
        "exported as a folder first. Only files of the export go, never checkpoints; none of them names a "
        "place on this machine.",
        "The token is that of `hf auth login` or HF_TOKEN. Needs: pip install 'dimo[hub]'.",
    )
    path = "folder of an export, of a generator, or of a run that has one"
    parser.add_argument("path", metavar="PATH", help=path)
    parser.add_argument("url", metavar="URL", help="hf://OWNER/NAME, or hf://OWNER/NAME@BRANCH")
    option(parser, "--dry-run", "", "list what would be pushed, and ask nobody")
    option(parser, "--create", "", "make the repository if it is not there")
    option(parser, "--private", "", "with --create: only its owner sees it")
    option(parser, "--message", "TEXT", "message of the commit")
    licence = "licence of the weights, as SPDX has it, where they are exported now"
    option(parser, "--license --licence", "ID", licence)
    return parser
