"""``dimo compare``: samplers of a teacher and generators in one table, by one protocol."""

import argparse
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from dimo_core.cli.command import read
from dimo_core.cli.parsing import Parser, positive
from dimo_core.config.layers import Layer, from_environment, from_file
from dimo_core.errors import UsageError
from dimo_core.registry import Registry
from dimo_core.suggestions import Choice

if TYPE_CHECKING:
    from dimo_core.evaluation.drawing import Shard
    from dimo_core.jobs.compare import Comparing

CHANGES = ("samples", "seeds", "temperatures", "metrics")
"""Options that override fields of the protocol."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo compare``."""
    options, rest = _parser().parse_known_args(list(argv))
    if options.merge:
        return _merge(options, rest, argv)
    layers = teacher_layers(rest)

    from dimo_core.config.distil import DEFAULTS
    from dimo_core.config.draft import next_folder
    from dimo_core.jobs.compare import compare
    from dimo_core.jobs.compared import TeacherRows
    from dimo_core.jobs.locate import chosen_teacher, teacher_of_generators

    registry = Registry.discover()
    teacher = chosen_teacher(layers, registry, None)
    if teacher is None and options.generators:
        teacher = teacher_of_generators(options.generators, registry)
    teacher = teacher or chosen_teacher(layers, registry, DEFAULTS["teacher"])
    assert teacher is not None
    out = options.out or next_folder("compare", registry.name_of("teacher", type(teacher)) or "teacher")
    rows = TeacherRows(
        samplers=tuple(map(choice, options.samplers or ())),
        steps=tuple(options.sampling_steps or ()),
        samplings=tuple(options.samplings or ()),
        guidance=guidance_of(options.guidance),
    )
    generators = tuple(dict.fromkeys(options.generators or ()))
    rows_or_none = None if options.generators_only else rows
    wanted = comparing(options, out, rows=rows_or_none, generators=generators, command=said("compare", argv))
    compare(teacher, wanted, registry)
    return 0


def teacher_layers(rest: Sequence[str]) -> list[Layer]:
    """Options of the teacher, from the environment, files and the command line.

    Raises:
        UsageError: for what is no option of a teacher.
    """
    given = read(rest, {})
    if given.flags or given.resume:
        wrong = [f"--{flag.replace('_', '-')}" for flag in sorted(given.flags)] or ["--resume"]
        raise UsageError(f"{wrong[0]} is no option of this command; the same command with --out goes on.")
    return [from_environment(os.environ, ("teacher",)), *map(from_file, given.config), given.layer]


def comparing(options: argparse.Namespace, out: str, **what: Any) -> "Comparing":
    """What the options that both commands have ask for.

    Args:
        options: Read by a parser with ``add_common``.
        out: Where the results go.
        **what: Further attributes of ``Comparing``.
    """
    from dimo_core.jobs.compare import Comparing

    changes: Mapping[str, Any] = {name: getattr(options, name) for name in CHANGES}
    metrics = changes["metrics"]
    return Comparing(
        out=out,
        protocol=options.protocol,
        changes={**changes, "metrics": metrics and tuple(map(choice, metrics))},
        device=options.device,
        batch_size=options.batch_size,
        intervals=options.intervals,
        keep=options.keep_samples,
        stream=options.stream,
        shard=None if options.shard is None else _shard(options.shard),
        **what,
    )


def choice(text: str) -> Choice:
    """A plugin by name, or as a YAML mapping with ``name`` and options.

    Raises:
        UsageError: for anything else.
    """
    try:
        data = yaml.safe_load(text)
        if isinstance(data, dict):
            return Choice.from_dict(data)
    except (yaml.YAMLError, ValueError):
        data = None
    if not isinstance(data, str) or re.search(r"\s", data):
        raise UsageError(f"expected a name, or {{name: NAME, OPTION: VALUE}}, got {text!r}")
    return Choice(data)


def said(command: str, argv: Sequence[str]) -> str:
    """The command as it was typed."""
    return f"dimo {command} {shlex.join(argv)}"


def add_common(add: Callable[..., argparse.Action]) -> None:
    """Options that ``dimo compare`` and ``dimo evaluate`` have."""
    add(
        "--protocol",
        metavar="NAME",
        default="plan",
        help="plan | quick | paper-5k | paper-50k, or a YAML file (default: plan, that of the teacher)",
    )
    add("--samples", type=positive, metavar="N", help="samples a row and seed (default: the protocol's)")
    add(
        "--seeds",
        "--seed",
        type=int,
        nargs="+",
        metavar="SEED",
        help="seeds of every draw; a row is the mean over them (default: 0)",
    )
    add(
        "--temperature",
        dest="temperatures",
        type=float,
        nargs="+",
        metavar="T",
        help="sampling temperatures of generators, a row for each (default: each generator's own)",
    )
    add("--metrics", nargs="+", metavar="NAME", help="what is computed (default: the protocol's)")
    add(
        "--intervals",
        type=int,
        metavar="N",
        default=0,
        help="95 %% intervals over N halves of the samples (default: 0, none)",
    )
    add("--batch-size", type=positive, metavar="B", help="samples drawn at a time, at most 500")
    add("--device", metavar="DEVICE", default="auto", help="auto, or a torch device (default: auto)")
    add("--out", metavar="FOLDER", help="where results go; what is finished there is not done again")
    add("--keep-samples", metavar="FOLDER", help="keep the samples themselves: pictures, or lines")
    add("--stream", action="store_true", help="write no finished batches; an interrupted row begins anew")
    add(
        "--shard",
        metavar="I/N",
        help="only draw the I-th of N parts of each row; the command without --shard joins them",
    )


def _parser() -> Parser:
    parser = Parser(
        "dimo compare",
        "Draw and judge samples of a teacher, by sampler and number of steps, and of its one-step "
        "generators, by one protocol: table, CSV, JSON, Markdown, plots, pictures, and one page with all.",
        "--teacher NAME chooses the teacher (default: that of the generators, else maskgit) and "
        "--teacher.OPTION VALUE sets its options. NAME of samplers, metrics and guidance may be "
        "'{name: NAME, OPTION: VALUE}'.",
    )
    add = parser.add_argument
    add("--samplers", nargs="+", metavar="NAME", help="multi-step samplers (default: the teacher's plan's)")
    add(
        "--sampling-steps",
        type=positive,
        nargs="+",
        metavar="N",
        help="step counts of each sampler (default: the plan's)",
    )
    add("--samplings", nargs="+", metavar="NAME", help="named samplings of the teacher, too")
    add(
        "--guidance",
        metavar="S",
        help="guidance of the teacher's rows: a scale, 1 being none, or a plugin (default: the plan's)",
    )
    add("--generators", nargs="+", metavar="PATH", help="folders of generators, or of runs")
    add("--generators-only", action="store_true", help="no rows of the teacher")
    add("--merge", nargs="+", metavar="RESULTS", help="draw nothing; put these results in one table")
    add_common(add)
    add("--log-level", metavar="LEVEL", help="trace | debug | info | warning | error (default: info)")
    return parser


def _merge(options: argparse.Namespace, rest: Sequence[str], argv: Sequence[str]) -> int:
    from dimo_core.config.draft import next_folder
    from dimo_core.jobs.compare import merge

    alone = {"--merge", "--out"}
    others = [word.partition("=")[0] for word in argv if word.startswith("--")]
    if rest or not set(others) <= alone:
        wrong = ", ".join(sorted({*others} - alone)) or " ".join(rest)
        raise UsageError(
            f"--merge draws nothing, so {wrong} has no meaning beside it. Only --out goes with it."
        )
    merge(options.merge, options.out or next_folder("merged"))
    return 0


def guidance_of(text: str | None) -> Choice | None:
    """Constant guidance of a scale, or a plugin as for ``choice``; None when not given."""
    try:
        return None if text is None else Choice("constant", {"scale": float(text)})
    except ValueError:
        return choice(str(text))


def _shard(text: str) -> "Shard":
    from dimo_core.evaluation.drawing import Shard

    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise UsageError(f"--shard is written I/N, such as 1/3 for the first of three parts, got {text!r}")
    return Shard(index=int(found[1]), of=int(found[2]))
