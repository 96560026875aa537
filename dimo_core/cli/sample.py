"""``dimo sample``: draw samples from a trained generator."""

from collections.abc import Sequence

from dimo_core.cli.parsing import Parser, positive


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo sample``."""
    options = _parser().parse_args(argv)

    from dimo_core.sampling import sample_folder

    written = sample_folder(
        options.path,
        count=options.count,
        conditions=options.conditions,
        temperature=options.temperature,
        seed=options.seed,
        out=options.out,
        device=options.device,
        batch_size=options.batch_size,
    )
    print(f"{options.count} samples in {written[0].rpartition('/')[0]}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dimo sample",
        "Draw samples in one step from a trained generator: pictures or lines, and their tokens.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="generator folder, or the folder of a run that has one (path or URL)")
    add("-n", "--count", type=positive, metavar="N", default=64, help="number of samples (default: 64)")
    add(
        "--conditions",
        nargs="+",
        metavar="C",
        help="class names, class indices or prompts, repeated in turn (default: evenly spread)",
    )
    add("--temperature", type=float, metavar="T", help="divides the logits (default: that of the generator)")
    add("--seed", type=int, metavar="SEED", default=0, help="seed of every draw (default: 0)")
    add("--out", metavar="FOLDER", help="where to write (default: the folder 'drawn' beside the generator)")
    add("--device", metavar="DEVICE", default="auto", help="auto, or a torch device (default: auto)")
    add(
        "--batch-size", type=positive, metavar="B", default=500, help="samples drawn at a time (default: 500)"
    )
    add("--log-level", metavar="LEVEL", help="trace | debug | info | warning | error (default: info)")
    return parser
