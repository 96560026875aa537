"""``dimo sample``: draw samples from a trained generator, or from a teacher in many steps."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, get_args

from dimo_core.cli.command import Command, Parser, option
from dimo_core.cli.drawing import device, generator, own_way, positive, seed
from dimo_core.cli.streams import follows
from dimo_core.errors import UsageError
from dimo_core.files.prompts import Layout, PromptSet, read_prompts
from dimo_core.texts import passes_of, shown

OF_TEACHER = ("sampling", "sampler", "guidance", "print_config", "print_schema")
"""Options that only the teacher's form has."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo sample``."""
    given = [token[2:] for token in argv if token.startswith("--")]
    names = [token.partition("=")[0].partition(".")[0].replace("-", "_") for token in given]
    if "teacher" in names or "config" in names:
        return _teacher(argv)
    for name in names:
        if name in OF_TEACHER:
            raise UsageError(
                f"--{name} says how a teacher is sampled, and a generator has a way of its own. Give "
                "--teacher NAME in place of PATH."
            )
    return _generator(argv)


def _generator(argv: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.path is None:
        parser.error("the following arguments are required: PATH, or --teacher NAME in place of it")

    from dimo_core.jobs.sample import sample_folder

    wanted = _wanted(options)
    how = {"temperature": options.temperature, "steps": options.steps}
    written = sample_folder(options.path, out=options.out, **how, **wanted)
    print(f"{wanted['count']} samples in {shown(written[-1].rpartition('/')[0])}")
    return 0


def _teacher(argv: Sequence[str]) -> int:
    from dimo_core.config.folders import next_folder
    from dimo_core.config.sample import SampleDraft
    from dimo_core.files.owner import taken
    from dimo_core.jobs.sample import sample_teacher
    from dimo_core.registry import Registry

    command = Command(
        prog="dimo sample --teacher NAME",
        about="Draw samples from a teacher in many steps: pictures or lines, and their tokens. A named "
        "sampling is a preset of steps, sampler and guidance; options that are given besides override it.",
        draft=SampleDraft,
        short={"temperature": ("sampler", "temperature")},
        more=_drawing,
        stray="{!r} and a teacher: give either PATH, for a generator, or --teacher NAME.",
    )
    job, options = command.job(argv, Registry.discover())
    if job is None:
        return 0
    names = (job.config["teacher"]["name"], job.sampling.name or job.config["sampler"]["name"])
    wanted = _wanted(options)
    place = options.out or next_folder("sample", *names)
    with nullcontext(place) if follows() else taken(place) as out:  # the first process takes it for all
        drawn = sample_teacher(job.teacher, job.sampling, out=out, **wanted)
    how = f"{job.sampling.title}, {passes_of(drawn.passes)} each"
    print(f"{wanted['count']} samples in {shown(out)} ({how})")
    return 0


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """What is drawn, and how: conditions, number of samples and what both forms have besides.

    Raises:
        UsageError: when options contradict each other, or a file holds no prompts.
    """
    how = {name: getattr(options, name) for name in ("seed", "device", "precision", "batch_size")}
    if options.prompts_from is None:
        for name in ("each", "layout"):
            if getattr(options, name) not in (None, "plain"):
                raise UsageError(f"--{name} goes with --prompts-from, which is not given")
        return how | {"conditions": options.conditions, "count": options.count or 64}
    for name in ("conditions", "count"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} and --prompts-from: all prompts of the files are sampled; give one")
    prompts = PromptSet(
        prompts=read_prompts(options.prompts_from),
        each=options.each or 1,
        layout=options.layout or "plain",
    )
    return how | {"conditions": prompts, "count": len(prompts.files())}


def _parser() -> Parser:
    parser = Parser(
        "dimo sample",
        "Draw samples in one or a few steps from a trained generator, or in many steps from a teacher: "
        "pictures or lines, and their tokens.",
        "`dimo sample --teacher NAME --help` lists the named samplings of that teacher, and the options of "
        "teacher, sampler and guidance.",
    )
    generator(parser, "PATH", nargs="?")
    _drawing(parser)
    own_way(parser)
    option(parser, "--teacher", "NAME", "sample this teacher in many steps instead")
    return parser


def _drawing(to: argparse._ActionsContainer) -> None:
    """The options that both forms have."""
    option(to, "-n --count", "N", "number of samples (default: 64)", type=positive)
    raw = "class names, class indices or prompts, repeated in turn (default: evenly spread)"
    option(to, "--conditions --prompt", "C ...", raw, action="extend")
    files = "files of prompts, each of which is sampled: one a line, JSON lines with 'prompt', JSON lists"
    option(to, "--prompts-from", "URL ...", files)
    option(to, "--each", "N", "samples of each prompt of these files (default: 1)", type=positive)
    layouts = "plain: numbered pictures; geneval, hpsv2: as their scorers read them (default: plain)"
    to.add_argument("--layout", choices=get_args(Layout), help=layouts)
    option(to, "--seed", "SEED", "seed of every draw (default: 0)", type=seed, default=0)
    out = "where to write (default: 'drawn' beside a generator; for a teacher the next runs/sample-...)"
    option(to, "--out", "FOLDER", out)
    device(to)
    size = "samples drawn at a time (default: 64, the most; fewer of many tokens)"
    option(to, "--batch-size", "B", size, type=positive, default=64)
