"""``dimo evaluate``: one row of the table, for a generator, a teacher, or pictures."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dimo_core.cli.command import Parser, option, positive
from dimo_core.cli.compare import add_common, choice, comparing, guidance, teacher_layers
from dimo_core.errors import UsageError
from dimo_core.registry import Registry
from dimo_core.suggestions import ASSUMED

if TYPE_CHECKING:
    from dimo_core.jobs.compared import TeacherRows
    from dimo_core.jobs.locate import Subject

OF_TEACHER = ("sampler", "sampling_steps", "sampling", "guidance")
"""Options that say how a teacher is sampled."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo evaluate``."""
    options, rest = _parser().parse_known_args(list(argv))
    layers = teacher_layers(options.config, rest)

    from dimo_core.config.folders import next_folder
    from dimo_core.jobs.compare import compare
    from dimo_core.jobs.compared import labels
    from dimo_core.jobs.locate import find_subject

    registry = Registry.discover()
    subject = find_subject(options.path, layers, registry)
    wanted = comparing(
        options,
        ["evaluate", *argv],
        out=options.out or next_folder("evaluate", labels([subject.url])[0]),
        rows=_rows(options, subject),
        generators=(subject.url,) if subject.kind == "generator" else (),
        images=subject.url if subject.kind == "images" else None,
    )
    compare(subject.teacher, wanted, registry)
    return 0


def _rows(options: argparse.Namespace, subject: "Subject") -> "TeacherRows | None":
    """The one row of a teacher: by default the plan's sampler in the most steps.

    Raises:
        UsageError: for options that have no meaning for the subject.
    """
    from dimo_core.jobs.compared import TeacherRows

    given = [f"--{name.replace('_', '-')}" for name in OF_TEACHER if getattr(options, name) is not None]
    if subject.kind != "teacher" and given:
        raise UsageError(f"{given[0]} says how a teacher is sampled, and {options.path!r} is no teacher")
    if subject.kind == "images" and options.temperatures:
        raise UsageError(f"--temperature is for generators, and {options.path!r} holds pictures")
    if subject.kind != "teacher":
        return None
    if options.sampling is not None:
        if options.sampler is not None or options.sampling_steps is not None:
            raise UsageError("--sampling says sampler and steps already: give it, or --sampler and its steps")
        return TeacherRows(samplings=(options.sampling,), guidance=options.guidance)
    plan = subject.teacher.evaluation() or ASSUMED
    return TeacherRows(
        samplers=() if options.sampler is None else (options.sampler,),
        steps=(options.sampling_steps or max(plan.steps, default=max(ASSUMED.steps)),),
        guidance=options.guidance,
    )


def _parser() -> Parser:
    parser = Parser(
        "dimo evaluate",
        "Draw and judge samples of one generator or teacher, or judge pictures: one row of the table of "
        "`dimo compare`, with the same files.",
        "A teacher by name, and several rows: `dimo compare`. For pictures, --teacher NAME says whose "
        "evaluation plan to use; metrics that need conditions are left out unless `dimo sample` wrote "
        "the pictures.",
    )
    path = "folder of a generator, a run, a teacher, or pictures (path or URL)"
    parser.add_argument("path", metavar="PATH", help=path)
    option(parser, "--sampler", "NAME", "of a teacher: multi-step sampler (default: the plan's)", type=choice)
    steps = "of a teacher: steps (default: the plan's most)"
    option(parser, "--sampling-steps", "N", steps, type=positive)
    option(parser, "--sampling", "NAME", "of a teacher: a named sampling")
    option(parser, "--guidance", "S", "of a teacher: a scale, 1 being none, or a plugin", type=guidance)
    add_common(parser)
    return parser
