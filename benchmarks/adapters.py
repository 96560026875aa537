"""Generators of adapters beside those of whole networks, on both embedded teachers, in short runs.

    python benchmarks/adapters.py --look       # LoRA of rank 16 at several rates and more, one seed
    python benchmarks/adapters.py              # whole networks and LoRA of rank 4, 16 and 64, three seeds
    python benchmarks/adapters.py --cost       # what a step of each costs, turn by turn in one process
    python benchmarks/adapters.py --summary    # train nothing, summarise what is finished

Everything can be interrupted: the same command goes on where it was. Runs and numbers stay in
runs/adapters; table and figure go to docs/results (--results).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import attrs
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper_table import SEEDS, finished, generators, spread, trained
from step_cost import engine_of

from dimo_core.config.distil import resolve_job
from dimo_core.evaluation.table import Row
from dimo_core.jobs.compare import Comparing, compare
from dimo_core.jobs.compared import TeacherRows
from dimo_core.jobs.dry_run import plan_memory
from dimo_core.registry import Registry

HOME = Path("runs/adapters")
LOOK = 3
"""The seed with which rates were compared, and what is trained; it is none of those that count."""


@attrs.frozen(kw_only=True)
class Case:
    """One teacher, and how long it is distilled.

    Attributes:
        steps: A small part of the preset's.
        sampling: Steps of the teacher's own rows.
        shown: Metrics of the table.
        warmup: Steps of warm-up where those of the preset would be longer than the run.
    """

    steps: int
    sampling: tuple[int, ...]
    shown: tuple[str, ...]
    warmup: Mapping[str, int] = attrs.field(factory=dict)


CASES: Mapping[str, Case] = {
    "maskgit": Case(
        steps=300, sampling=(16, 1), shown=("fid", "readable", "accuracy", "entropy", "precision", "recall")
    ),
    "meissonic": Case(
        steps=100,
        sampling=(8, 1),
        shown=("fid", "overall", "single_object", "colors", "position", "readable", "precision", "recall"),
        warmup={"generator": 50, "auxiliary": 10},
    ),
}


@attrs.frozen(kw_only=True)
class Contender:
    """What is trained, and how fast.

    Attributes:
        rank: Of the adapters of both networks; 0 trains whole networks.
        rate: Learning rates of both networks, in those of the preset.
        embeddings: Whether whole networks train what ``train_embeddings`` names; adapters never do.
    """

    rank: int = 0
    rate: float = 1.0
    embeddings: bool = True

    @property
    def name(self) -> str:
        """As in the table."""
        whole = "whole networks" if self.embeddings else "whole networks but embeddings"
        return f"LoRA, r = {self.rank}" if self.rank else whole

    def options(self, teacher: str) -> dict[str, Any]:
        """Options of `dimo run`."""
        whole: dict[str, Any] = {"teacher": {"name": teacher}}
        preset, warmup = resolve_job(whole).config["objective"], CASES[teacher].warmup
        parts = ("generator", "auxiliary")
        networks: dict[str, Any] = {}
        if self.rank:
            networks = {part: {"name": "lora", "rank": self.rank} for part in parts}
        elif not self.embeddings:
            networks = {part: {"train_embeddings": False} for part in parts}
        rates: dict[str, Any] = {part: {"lr": self.rate * preset[part]["lr"]} for part in parts}
        for part, steps in warmup.items():
            rates[part]["warmup"] = steps
        return {**whole, **networks, "objective": rates}

    def folder(self, teacher: str, steps: int, seed: int) -> Path:
        """Where its run is."""
        kind = f"rank{self.rank}" if self.rank else "whole" if self.embeddings else "fixed"
        return HOME / f"{teacher}{steps}" / f"{kind}-x{self.rate:g}" / f"seed{seed}"


RATE = 3.0
CONTENDERS = (Contender(), *(Contender(rank=rank, rate=RATE) for rank in (4, 16, 64)))
LOOKED_AT = (
    *(Contender(rank=16, rate=rate) for rate in (1.0, 3.0, 10.0)),
    Contender(embeddings=False),
    Contender(rate=3.0),
)
Runs = Mapping[tuple[Contender, bool], Sequence[Row]]


def trainings(given: argparse.Namespace) -> Iterator[tuple[str, Contender, int]]:
    """Teacher, contender and seed of each run that is asked for; whole seeds come first."""
    for seed in (LOOK,) if given.look else given.seeds:
        for teacher in given.teachers:
            for contender in LOOKED_AT if given.look else CONTENDERS:
                yield teacher, contender, seed


def judged(teacher: str, given: argparse.Namespace) -> tuple[list[Row], Runs]:
    """Rows of teacher and real data; those of finished runs by contender, and whether it was a look."""
    case, registry = CASES[teacher], Registry.discover()
    wanted = [(c, False, seed) for c in CONTENDERS for seed in given.seeds]
    wanted += [(c, True, LOOK) for c in LOOKED_AT]
    outs = {each: each[0].folder(teacher, case.steps, each[2]) for each in wanted}
    done = {each: out for each, out in outs.items() if finished(out)}
    comparing = Comparing(
        out=str(HOME / f"{teacher}{case.steps}" / f"judged{given.samples}"),
        rows=TeacherRows(steps=case.sampling),
        generators=tuple(map(str, done.values())),
        changes={"samples": given.samples},
        device="cpu",
        command="python benchmarks/adapters.py",
    )
    found = compare(registry.load("teacher", teacher)(), comparing, registry)
    assert found is not None
    runs: dict[tuple[Contender, bool], list[Row]] = {}
    for (contender, look, _), row in zip(done, generators(found), strict=True):
        runs.setdefault((contender, look), []).append(row)
    return [row for row in found.rows if row.kind != "generator"], runs


def costs(given: argparse.Namespace) -> None:
    """Seconds of the processor that a step takes, contender by contender in turn."""
    found: dict[str, dict[str, float]] = {}
    for teacher in given.teachers:
        with tempfile.TemporaryDirectory() as folder:
            how = torch.device("cpu"), folder
            engines = {c.name: engine_of(c.options(teacher), *how) for c in CONTENDERS}
            seconds: dict[str, list[float]] = {name: [] for name in engines}
            for turn in range(given.rounds + 1):
                for name, engine in engines.items():
                    began = time.process_time()
                    engine.take_step()
                    if turn:  # the first warms up
                        seconds[name].append(time.process_time() - began)
        found[teacher] = {name: median(each) for name, each in seconds.items()}
        print(teacher, found[teacher])
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "cost.json").write_text(json.dumps(found, indent=1))


def planned(teacher: str, contender: Contender) -> tuple[int, int]:
    """Trained parameters of the generator, and bytes that `--dry-run` plans for one process."""
    plan = plan_memory(resolve_job(contender.options(teacher)))
    return plan.parameters["generator"][1], plan.total


def table(
    teacher: str,
    others: Sequence[Row],
    runs: Runs,
    plans: Mapping[int, tuple[int, int]],
    cost: Mapping[str, float],
) -> str:
    """Markdown of one teacher: its rows, the contenders, and the look at rates."""
    shown = CASES[teacher].shown
    head = ("samples of", "rates", "runs", "trained", "MiB", "step", *shown)
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for row in others:
        numbers = " | ".join(f"{row.metrics[m]:.3f}" if m in row.metrics else "-" for m in shown)
        name = f"teacher, {row.name.partition(', ')[2]}" if row.kind == "teacher" else row.name
        lines.append(f"| {name} | | | | | | {numbers} |")
    for contender, look in [(c, False) for c in CONTENDERS] + [(c, True) for c in LOOKED_AT]:
        rows = runs.get((contender, look), ())
        price = [""] * 3
        if not look:
            learnt, total = plans[contender.rank]
            ratio = f"{cost[contender.name] / cost['whole networks']:.2f}" if cost else "-"
            price = [f"{learnt:,}", f"{total / 2**20:.0f}", ratio]
        name = f"{contender.name}, seed {LOOK}" if look else contender.name
        numbers = " | ".join(spread(rows, m) for m in shown)
        count = len(rows) or "not measured"
        lines.append(f"| {name} | x{contender.rate:g} | {count} | {' | '.join(price)} | {numbers} |")
    return "\n".join(lines)


def figure(runs: Mapping[str, Runs], others: Mapping[str, Sequence[Row]], path: Path) -> None:
    """FID and the share of readable samples by what was trained, a row a teacher."""
    metrics = ("fid", "readable")
    fig = Figure(figsize=(8, 3 * len(runs)), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(len(runs), len(metrics), squeeze=False)
    for row, (teacher, found) in zip(axes, runs.items(), strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            for x, contender in enumerate((*CONTENDERS[1:], CONTENDERS[0])):
                values = [each.metrics[metric] for each in found.get((contender, False), ())]
                if values:
                    wide = stdev(values) if len(values) > 1 else 0.0
                    ax.errorbar(x, mean(values), wide, marker="o", color="#c04f15", capsize=3)
                    ax.plot([x] * len(values), values, ls="", marker=".", color="#555", alpha=0.6)
            ax.axhline(others[teacher][0].metrics[metric], color="#555", ls=":", lw=1)
            ax.set_xticks(range(4), ["r = 4", "r = 16", "r = 64", "whole"])
            ax.set_title(f"{teacher}: {metric}", fontsize=10)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
    fig.savefig(path, dpi=110)


def summary(given: argparse.Namespace) -> None:
    """Judge what is finished; write table and figure."""
    cost = json.loads((HOME / "cost.json").read_text()) if (HOME / "cost.json").exists() else {}
    others, runs, parts = {}, {}, []
    for teacher in given.teachers:
        others[teacher], runs[teacher] = judged(teacher, given)
        plans = {c.rank: planned(teacher, c) for c in CONTENDERS}
        parts.append(table(teacher, others[teacher], runs[teacher], plans, cost.get(teacher, {})))
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "adapters.md.inc").write_text("\n\n".join(parts) + "\n")
    figure(runs, others, given.results / "adapters.png")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--samples", type=int, default=1000, help="samples a row")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each contender with --cost")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--look", action="store_true", help="train what was looked at with another seed")
    modes.add_argument("--cost", action="store_true", help="measure what a step costs, and train nothing")
    modes.add_argument("--summary", action="store_true", help="train nothing; summarise what is finished")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    if given.cost:
        costs(given)
        return
    if not given.summary:
        for teacher, contender, seed in trainings(given):
            steps = CASES[teacher].steps
            trained(contender.folder(teacher, steps, seed), seed, steps, contender.options(teacher))
    summary(given)


if __name__ == "__main__":
    main()
