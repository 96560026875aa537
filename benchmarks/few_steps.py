"""Every method at 1, 2 and 4 steps on the embedded teachers, beside the teacher's samplers and real data.

    python benchmarks/few_steps.py                         # three seeds on digits, one on scenes
    python benchmarks/few_steps.py --teachers maskgit --methods few-step sdtt --seeds 0
    python benchmarks/few_steps.py --summary               # train nothing, summarise what is finished

Each run is a preset of the teacher with the generator's steps changed. Everything can be interrupted: the
same command goes on where it was. Runs stay in runs/few_steps. Tables, figure, and few_steps.json with the
numbers of these go to docs/results (--results): what is there counts without its runs.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper_table import finished, generators, trained
from records import Record, by_method, joined, read, write

from dimo_core.evaluation.table import Row
from dimo_core.jobs.compare import Comparing, compare
from dimo_core.jobs.compared import TeacherRows
from dimo_core.jobs.sample import sample_teacher
from dimo_core.registry import Registry
from dimo_core.suggestions import Choice
from dimo_core.texts import steps_of

HOME = Path("runs/few_steps")
RECORDS = "few_steps.json"
STEPS = (1, 2, 4)
PAIRS = {"maskgit": 10000, "meissonic": 8192}
"""Samples of the teacher that ``pairs`` learns."""


@attrs.frozen(kw_only=True)
class Case:
    """One teacher.

    Attributes:
        seeds: Of the trainings.
        samplers: Whose rows the teacher has.
        sampling: Steps of these rows.
        shown: Metrics of the table.
        drawn: The two of the figure.
    """

    seeds: tuple[int, ...]
    samplers: tuple[str, ...]
    sampling: tuple[int, ...]
    shown: tuple[str, ...]
    drawn: tuple[str, str]


CASES: Mapping[str, Case] = {
    "maskgit": Case(
        seeds=(0, 1, 2),
        samplers=("maskgit", "random-order"),
        sampling=(16, 4, 2, 1),
        shown=("fid", "readable", "accuracy", "entropy", "precision", "recall"),
        drawn=("fid", "readable"),
    ),
    "meissonic": Case(
        seeds=(0,),
        samplers=("maskgit", "random-order"),
        sampling=(16, 4, 2, 1),
        shown=("overall", "single_object", "colors", "two_object", "position", "color_attr", "fid"),
        drawn=("overall", "color_attr"),
    ),
}


@attrs.frozen(kw_only=True)
class Method:
    """A preset with its name in the table.

    Attributes:
        title: As in the table.
        preset: Of the teacher.
        steps: At which it is trained.
        sampled: Whether it learns samples of the teacher.
        share: Of the preset's training steps; less than 1 where they would take hours in all.
    """

    title: str
    preset: str
    steps: tuple[int, ...] = STEPS
    sampled: bool = False
    share: float = 1.0

    def training(self, teacher: str) -> int:
        """Steps of training."""
        recipe = Registry.discover().load("teacher", teacher)().recipes()[self.preset]
        return round(self.share * recipe["train"]["steps"])

    def options(self, teacher: str, steps: int) -> dict[str, Any]:
        """Options of `dimo run`."""
        one: dict[str, Any] = {} if self.steps == (1,) else {"generator": {"steps": steps}}
        one |= {"objective": {"horizon": 1 / steps}} if self.preset == "d-mmd" else {}
        data = {"data": {"name": "samples", "path": str(samples_of(teacher))}} if self.sampled else {}
        return {"teacher": {"name": teacher}, "preset": self.preset, **one, **data}


METHODS: Mapping[str, Method] = {
    "few-step": Method(title="Di[M]O", preset="few-step"),
    "imdm": Method(title="Di[M]O, noise at masks (IMDM)", preset="imdm", share=1 / 3),
    "pairs": Method(title="pairs (ReDi)", preset="pairs", steps=(1,), sampled=True, share=1 / 2),
    "idlm": Method(title="IDLM", preset="idlm", share=1 / 2),
    "d-mmd": Method(title="D-MMD", preset="d-mmd", share=1 / 2),
    "sdtt": Method(title="SDTT", preset="sdtt"),
    "di4c": Method(title="Di4C", preset="di4c", share=1 / 2),
    "di4c-d": Method(title="Di4C-d", preset="di4c-d", share=1 / 2),
}
Run = tuple[str, str, int, int]
"""Teacher, method, steps and seed."""


def samples_of(teacher: str) -> Path:
    """Where samples of a teacher are."""
    return HOME / teacher / "samples"


def folder(run: Run) -> Path:
    """Where a run is."""
    teacher, method, steps, seed = run
    return HOME / teacher / method / f"{steps}-steps-seed{seed}"


def runs(given: argparse.Namespace) -> Iterator[Run]:
    """All that are asked for; the first seed of all comes before the second one."""
    for teacher in given.teachers:
        seeds = CASES[teacher].seeds if given.seeds is None else given.seeds
        for seed in seeds:
            for method in given.methods:
                for steps in METHODS[method].steps:
                    if steps in given.steps:
                        yield teacher, method, steps, seed


def train(run: Run, given: argparse.Namespace) -> None:
    """Train, continue, or find it finished."""
    teacher, method, steps, seed = run
    if METHODS[method].sampled and not (samples_of(teacher) / "samples.jsonl").exists():
        made = Registry.discover().load("teacher", teacher)()
        sample_teacher(made, count=PAIRS[teacher], out=str(samples_of(teacher)), device="cpu")
    length = given.train_steps or METHODS[method].training(teacher)
    trained(folder(run), seed, length, METHODS[method].options(teacher, steps))


def judged(teacher: str, given: argparse.Namespace) -> tuple[list[Row], Mapping[Run, Row]]:
    """Rows of teacher and real data, and of the finished runs."""
    case, registry = CASES[teacher], Registry.discover()
    done = [run for run in runs(given) if run[0] == teacher and finished(folder(run))]
    comparing = Comparing(
        out=str(HOME / teacher / f"judged{given.samples or ''}"),
        rows=TeacherRows(samplers=tuple(map(Choice, case.samplers)), steps=case.sampling),
        generators=tuple(str(folder(run)) for run in done),
        changes={"samples": given.samples},
        device="cpu",
        command="python benchmarks/few_steps.py",
    )
    found = compare(registry.load("teacher", teacher)(), comparing, registry)
    assert found is not None
    others = [row for row in found.rows if row.kind != "generator"]
    return others, dict(zip(done, generators(found), strict=True))


def table(teacher: str, others: Sequence[Row], found: Sequence[Record]) -> str:
    """Markdown of one teacher."""
    shown = CASES[teacher].shown
    head = ("samples of", "steps", "passes", "runs", *shown)
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for row in others:
        numbers = " | ".join(f"{row.metrics[m]:.3f}" if m in row.metrics else "-" for m in shown)
        lines.append(f"| {row.name} | {row.steps or ''} | {row.passes or ''} | | {numbers} |")
    for name, method in METHODS.items():
        for record in (record for record in found if record.key[:2] == (teacher, name)):
            numbers = " | ".join(map(record.shown, shown))
            lines.append(
                f"| {method.title} | {record.steps} | {record.passes} | {len(record.seeds)} | {numbers} |"
            )
    return "\n".join(lines)


def figure(others: Mapping[str, Sequence[Row]], found: Sequence[Record], path: Path) -> None:
    """Two metrics by steps, a row a teacher; dotted is the teacher's best row."""
    fig = Figure(figsize=(9, 3.6 * len(others)), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(len(others), 2, squeeze=False)
    for row, (teacher, rows) in zip(axes, others.items(), strict=True):
        for ax, metric in zip(row, CASES[teacher].drawn, strict=True):
            for name, method in METHODS.items():
                mine = [record for record in found if record.key[:2] == (teacher, name)]
                means, wide = ([record.metrics[metric][i] for record in mine] for i in (0, 1))
                steps = [record.steps for record in mine]
                ax.errorbar(steps, means, wide, marker="o", ms=4, capsize=3, label=method.title)
            own = [r for r in rows if r.name.startswith(f"{CASES[teacher].samplers[0]},")]
            own = sorted((r for r in own if r.steps in STEPS), key=lambda r: r.steps or 0)
            values = [r.metrics[metric] for r in own]
            ax.plot([r.steps for r in own], values, color="#999", ls="--", lw=1, label="the teacher")
            ax.axhline(rows[0].metrics[metric], color="#555", ls=":", lw=1)
            ax.set_xscale("log", base=2)
            ax.set_xticks(STEPS, map(str, STEPS))
            best = f"the teacher in {steps_of(rows[0].steps or 0)}"
            ax.set_title(f"{teacher}: {metric}, dotted: {best}", fontsize=9)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
    axes[0][0].set_yscale("log")
    axes[0][1].legend(fontsize=7)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", help="those of each teacher unless given")
    parser.add_argument("--samples", type=int, help="samples a row; those of the teacher's plan unless given")
    parser.add_argument("--train-steps", type=int, help="those of the presets unless given")
    parser.add_argument("--summary", action="store_true", help="train nothing; summarise what is finished")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    if not given.summary:
        for run in runs(given):
            train(run, given)
    found = {teacher: judged(teacher, given) for teacher in given.teachers}
    given.results.mkdir(parents=True, exist_ok=True)
    new = [Record.of(run, row) for _, mine in found.values() for run, row in mine.items()]
    kept = joined(read(given.results / RECORDS), new)
    write(given.results / RECORDS, kept)
    records, others = [*by_method(kept)], {teacher: rows for teacher, (rows, _) in found.items()}
    for teacher, rows in others.items():
        (given.results / f"few_steps-{teacher}.md.inc").write_text(table(teacher, rows, records) + "\n")
    figure(others, records, given.results / "few_steps.png")


if __name__ == "__main__":
    main()
