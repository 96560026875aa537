"""``dimo demo``: a local page that draws from a generator, beside its teacher."""

from collections.abc import Sequence
from contextlib import suppress

from dimo_core.cli.command import Parser, option
from dimo_core.cli.drawing import device, generator

PORT = 7860


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo demo``."""
    options = _parser().parse_args(argv)

    from dimo_core.demo.server import Server
    from dimo_core.jobs.demo import Demonstration
    from dimo_core.progress import interruptible

    how = {name: getattr(options, name) for name in ("device", "precision", "sampling")}
    with interruptible():
        server = Server(Demonstration(options.path, **how), options.port)
        print(f"{server.url} shows it, on this machine only. Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        server.end()
    print("ended")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dimo demo",
        "Serve a local page that draws from a generator for a condition or prompt, with seed and "
        "temperature, many samples at once, beside its teacher and with the times of both. Nobody but this "
        "machine can reach it.",
    )
    generator(parser, "PATH")
    option(parser, "--port", "PORT", f"port; 0 takes a free one (default: {PORT})", type=int, default=PORT)
    sampling = "how the teacher is sampled: one of its named samplings (default: its first)"
    option(parser, "--sampling", "NAME", sampling)
    device(parser)
    return parser
