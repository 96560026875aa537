"""``dimo compare`` and ``dimo evaluate``: a table of samplers and generators, or the rows of one of them."""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import yaml

from dimo_core.cli.command import Parser, configs, option, words
from dimo_core.cli.drawing import device, positive, seed
from dimo_core.config.layers import Layer, from_environment, from_file
from dimo_core.errors import UsageError
from dimo_core.registry import Registry
from dimo_core.suggestions import ASSUMED, Choice

if TYPE_CHECKING:
    from dimo_core.evaluation.drawing import Shard
    from dimo_core.jobs.compared import TeacherRows
    from dimo_core.jobs.locate import Subject
    from dimo_core.teacher import Teacher

CHANGES = ("samples", "seeds", "temperatures", "metrics")
"""Options that override fields of the protocol."""

OF_TEACHER = ("sampler", "sampling", "guidance")
"""Options that say how a teacher is sampled."""


def compare(argv: Sequence[str]) -> int:
    """``dimo compare``: samplers of a teacher and generators in one table, by one protocol."""
    options, rest = _compare_parser().parse_known_args(list(argv))
    if options.merge:
        return _merge(options, rest, argv)
    layers = teacher_layers(options.config, rest)

    from dimo_core.jobs.compared import TeacherRows
    from dimo_core.jobs.locate import chosen_teacher

    registry = Registry.discover()
    teacher = chosen_teacher(layers, registry, options.generators)
    rows = TeacherRows(
        samplers=tuple(options.samplers),
        steps=tuple(options.sampling_steps),
        samplings=tuple(options.samplings),
        guidance=options.guidance,
    )
    return _start(
        teacher,
        options,
        registry,
        ("compare", registry.name_of("teacher", type(teacher)) or "teacher"),
        command=f"dimo {shlex.join(['compare', *argv])}",
        rows=None if options.generators_only else rows,
        generators=tuple(dict.fromkeys(options.generators)),
    )


def teacher_layers(configs: Sequence[str], rest: Sequence[str]) -> list[Layer]:
    """Options of the teacher, from the environment, files and the command line.

    Raises:
        UsageError: for what is no option of a teacher.
    """
    given = words(rest, {})
    for wrong in ("dry_run", "print_config", "print_schema", "resume"):
        if wrong in given.data:
            text = "is no option of this command; the same command with --out goes on."
            raise UsageError(f"--{wrong.replace('_', '-')} {text}")
    return [from_environment(os.environ, ("teacher",)), *map(from_file, configs), given]


def _start(
    teacher: "Teacher", options: argparse.Namespace, registry: Registry, place: tuple[str, str], **what: Any
) -> int:
    """Draw and judge what options ask for, and ``what`` of ``Comparing`` they lack."""
    from dimo_core.config.folders import next_folder
    from dimo_core.jobs.compare import Comparing, compare

    given, own = vars(options), [field.name for field in attrs.fields(Comparing)]
    what = {name: value for name, value in given.items() if name in own} | what
    what["changes"] = {name: given[name] for name in CHANGES}
    compare(teacher, Comparing(**what | {"out": options.out or next_folder(*place)}), registry)
    return 0


def choice(text: str) -> Choice:
    """A plugin by name, or as a YAML mapping with ``name`` and options.

    Raises:
        UsageError: for anything else.
    """
    try:
        found = Choice.from_dict(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError):
        found = None
    if found is None or re.search(r"\s", str(found.name)):
        raise UsageError(f"expected a name, or {{name: NAME, OPTION: VALUE}}, got {text!r}")
    return found


def guidance(text: str) -> Choice:
    """Constant guidance of a scale, or a plugin as for ``choice``."""
    try:
        return Choice("constant", {"scale": float(text)})
    except ValueError:
        return choice(text)


def add_common(to: Parser) -> None:
    """Options that ``dimo compare`` and ``dimo evaluate`` have."""
    protocols = "plan | quick | paper-5k | paper-50k, or a YAML file (default: plan, that of the teacher)"
    option(to, "--protocol", "NAME", protocols, default="plan")
    option(to, "--samples", "N", "samples a row and seed (default: the protocol's)", type=positive)
    seeds = "seeds of every draw; a row is the mean over them (default: 0)"
    option(to, "--seeds --seed", "SEED ...", seeds, type=seed)
    temperatures = "sampling temperatures of generators, a row for each (default: each generator's own)"
    option(to, "--temperature", "T ...", temperatures, dest="temperatures", type=float)
    option(to, "--metrics", "NAME ...", "what is computed (default: the protocol's)", type=choice)
    intervals = "95 % intervals over N halves of the samples (default: 0, none)"
    option(to, "--intervals", "N", intervals, type=int, default=0)
    option(to, "--batch-size", "B", "samples drawn at a time, at most 500", type=positive)
    device(to)
    configs(to)
    option(to, "--out", "FOLDER", "where results go; what is finished there is not done again")
    option(to, "--keep-samples", "FOLDER", "keep the samples themselves: pictures, or lines", dest="keep")
    option(to, "--stream", "", "write no finished batches; an interrupted row begins anew")
    shard = "only draw the I-th of N parts of each row; the command without --shard joins them"
    option(to, "--shard", "I/N", shard, type=_shard)


def _compare_parser() -> Parser:
    parser = Parser(
        "dimo compare",
        "Draw and judge samples of a teacher, by sampler and number of steps, and of its generators, by one "
        "protocol: table, CSV, JSON, Markdown, plots, pictures, and one page with all.",
        "--teacher NAME chooses the teacher (default: that of the generators, else maskgit) and "
        "--teacher.OPTION VALUE sets its options. NAME of samplers, metrics and guidance may be "
        "'{name: NAME, OPTION: VALUE}'.",
    )
    samplers, steps = "multi-step samplers (default: the teacher's plan's)", "step counts of each sampler"
    option(parser, "--samplers", "NAME ...", samplers, type=choice, default=())
    option(parser, "--sampling-steps", "N ...", f"{steps} (default: the plan's)", type=positive, default=())
    option(parser, "--samplings", "NAME ...", "named samplings of the teacher, too", default=())
    scale = "guidance of the teacher's rows: a scale, 1 being none, or a plugin (default: the plan's)"
    option(parser, "--guidance", "S", scale, type=guidance)
    option(parser, "--generators", "PATH ...", "folders of generators, or of runs", default=())
    own = "steps of the generators' samples, a row for each (default: each generator's own)"
    option(parser, "--generator-steps", "N ...", own, type=positive, default=())
    option(parser, "--generators-only", "", "no rows of the teacher")
    option(parser, "--merge", "RESULTS ...", "draw nothing; put these results in one table")
    add_common(parser)
    return parser


def _merge(options: argparse.Namespace, rest: Sequence[str], argv: Sequence[str]) -> int:
    from dimo_core.config.folders import next_folder
    from dimo_core.jobs.compare import merge

    alone = {"--merge", "--out", "--log-level"}
    others = [word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    if rest or not set(others) <= alone:
        wrong = ", ".join(sorted({*others} - alone)) or " ".join(rest)
        raise UsageError(
            f"--merge draws nothing, so {wrong} has no meaning beside it. Only --out goes with it."
        )
    merge(options.merge, options.out or next_folder("merged"))
    return 0


def _shard(text: str) -> "Shard":
    from dimo_core.evaluation.drawing import Shard

    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise UsageError(f"--shard is written I/N, such as 1/3 for the first of three parts, got {text!r}")
    return Shard(index=int(found[1]), of=int(found[2]))


def evaluate(argv: Sequence[str]) -> int:
    """``dimo evaluate``: rows of the table for one generator or teacher, or for pictures."""
    options, rest = _evaluate_parser().parse_known_args(list(argv))
    layers = teacher_layers(options.config, rest)

    from dimo_core.jobs.compared import labels
    from dimo_core.jobs.locate import find_subject

    registry = Registry.discover()
    subject = find_subject(options.path, layers, registry)
    return _start(
        subject.teacher,
        options,
        registry,
        ("evaluate", labels([subject.url])[0]),
        command=f"dimo {shlex.join(['evaluate', *argv])}",
        rows=_rows(options, subject),
        generators=(subject.url,) if subject.kind == "generator" else (),
        generator_steps=options.steps if subject.kind == "generator" else (),
        images=subject.url if subject.kind == "images" else None,
    )


def _rows(options: argparse.Namespace, subject: "Subject") -> "TeacherRows | None":
    """The rows of a teacher: by default one, the plan's sampler in the most steps.

    Raises:
        UsageError: for options that have no meaning for the subject.
    """
    from dimo_core.jobs.compared import TeacherRows

    given = [f"--{name.replace('_', '-')}" for name in OF_TEACHER if getattr(options, name) is not None]
    if subject.kind != "teacher" and given:
        raise UsageError(f"{given[0]} says how a teacher is sampled, and {options.path!r} is no teacher")
    for name, wanted in (("temperature", options.temperatures), ("steps", options.steps)):
        if subject.kind == "images" and wanted:
            raise UsageError(f"--{name} says how samples are drawn, and {options.path!r} holds pictures")
    if subject.kind != "teacher":
        return None
    if options.sampling is not None:
        if options.sampler is not None or options.steps:
            raise UsageError("--sampling says sampler and steps already: give it, or --sampler and its steps")
        return TeacherRows(samplings=(options.sampling,), guidance=options.guidance)
    plan = subject.teacher.evaluation() or ASSUMED
    return TeacherRows(
        samplers=() if options.sampler is None else (options.sampler,),
        steps=tuple(options.steps) or (max(plan.steps, default=max(ASSUMED.steps)),),
        guidance=options.guidance,
    )


def _evaluate_parser() -> Parser:
    parser = Parser(
        "dimo evaluate",
        "Draw and judge samples of one generator or teacher, or judge pictures: a row of the table of `dimo "
        "compare`, or one for each number of steps, with the same files.",
        "A teacher by name, and rows of several: `dimo compare`. For pictures, --teacher NAME says whose "
        "evaluation plan to use; metrics that need conditions are left out unless `dimo sample` wrote "
        "the pictures.",
    )
    path = "folder of a generator, a run, a teacher, or pictures (path or URL)"
    parser.add_argument("path", metavar="PATH", help=path)
    option(parser, "--sampler", "NAME", "of a teacher: multi-step sampler (default: the plan's)", type=choice)
    steps = "steps, a row for each (default: the generator's own; of a teacher the plan's most)"
    option(parser, "--steps --sampling-steps", "N ...", steps, type=positive, default=())
    option(parser, "--sampling", "NAME", "of a teacher: a named sampling")
    option(parser, "--guidance", "S", "of a teacher: a scale, 1 being none, or a plugin", type=guidance)
    add_common(parser)
    return parser
