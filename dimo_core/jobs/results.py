"""What a distillation run shows: sheets on the way, evaluations on the way, and the report at the end."""

import math
import time
from collections.abc import Mapping
from functools import partial
from shlex import quote
from typing import Any

import attrs
from loguru import logger
from rich.console import Console

from dimo_core.backbone import Backbone
from dimo_core.config.distil import Job
from dimo_core.device import noted
from dimo_core.engine.checkpoint import step_name
from dimo_core.engine.loop import Engine
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.engine.part_state import PartState
from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.errors import Interrupted, reason
from dimo_core.evaluation.comparison import size_notes
from dimo_core.evaluation.drawing import Method, Opened, Rows, Shard
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.table import RUN_TABLE, Row, Table
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator, versions
from dimo_core.generator import Generator
from dimo_core.registry import Registry, built
from dimo_core.report.comparison_table import REAL, row_of
from dimo_core.report.page import Report, sheets_over_time, write_report
from dimo_core.report.plots import plots, quality_plots
from dimo_core.report.sheets import FixedSamples
from dimo_core.sampler import Sampler, TeacherSampling
from dimo_core.settings import Evaluate
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.texts import steps_of

OLD = 60.0
"""Seconds after which a report is written anew where there is no new evaluation."""


@attrs.define(kw_only=True, eq=False)
class RunRows(Rows):
    """The rows of a run: the teacher in several ways, the generator in its steps, and real data.

    Attributes:
        ways: How the teacher is sampled, row by row: by named samplings, or in several numbers of steps.
        seed: Seed of the draws.
        ranks: The processes that share the batches of a row.
    """

    ways: tuple[TeacherSampling, ...]
    seed: int = 0
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        plan: EvaluationPlan,
        registry: Registry,
        *,
        settings: Evaluate,
        sampler: Sampler | None = None,
        **more: Any,
    ) -> "RunRows":
        """Build what a plan names.

        Args:
            teacher: Whose plan it is.
            plan: What to compute, by registry names.
            registry: Loads them.
            settings: Sample counts, rows and batch size; where null, the plan rules.
            sampler: Multi-step sampler of step counts; None for the plan's.
            more: ``conditions``, ``device`` and ``seed``.

        Raises:
            PluginError: if data, extractor, sampler or guidance are unknown. A metric is only noted.
            UsageError: for an unknown sampling.
        """
        whose = plan.whose(teacher)
        sampler = sampler or built(registry, "sampler", plan.sampler, whose)
        guidance = built(registry, "guidance", plan.guidance, whose)
        counts = plan.steps if settings.steps is None else settings.steps
        ways = [TeacherSampling.named(teacher, name, registry) for name in dict.fromkeys(settings.samplings)]
        ways = ways or [TeacherSampling(steps=n, sampler=sampler, guidance=guidance) for n in counts]
        plan, size = attrs.evolve(plan, samples=settings.samples or plan.samples), settings.batch_size
        judge = Judge.resolve(teacher, plan, registry, batch_size=size, device=more.get("device"))
        own: dict[str, Any] = {"teacher": teacher, "judge": judge, "batch_size": size}
        own["precision"] = settings.precision
        return cls(**own, ways=tuple(ways), **more)

    def row(self, method: Method, samples: int | None = None) -> Row:
        """Draw and judge a row, of so many samples where that is told."""
        drawing, opened = self.drawing(self.seed, onlooker=self.judge), method.open()
        batches = self.ranks.gathered(drawing.batches(self.raw(samples), opened, Shard.mine(self.ranks)))
        found = self.numbers(batches, opened.network)
        return row_of(method, [{**found, "parameters": 0, "decoding": 0.0}])

    def table(self, generator: Generator | None, network: Backbone) -> Table:
        """The teacher in each of its ``ways``, the generator in its steps, and the real floor.

        Args:
            generator: On ``device``; None for a table of the teacher alone.
            network: The teacher's network, on ``device``.
        """
        opened = partial(Opened.teacher, self.teacher, network)
        methods = [
            Method(
                name=way.title, kind="teacher", steps=way.steps, sampling=way.name, open=partial(opened, way)
            )
            for way in self.ways
        ]
        rows = []
        for each in (*methods, *([] if generator is None else [row_of_generator(generator)])):
            try:
                rows.append(self.row(each))
            except Interrupted:
                raise
            except Exception as error:  # of a sampler, say: it costs its row, and neither table nor report
                self.judge.note(f"the row {each.name!r} is missing: {reason(error)}")
        if (floor := self.judge.floor) is not None:
            rows.append(row_of(REAL, [self.judge.judged(floor)]))
        plan, every = self.judge.plan, [way.as_dict() for way in self.ways]
        sampled = {name: each[name] for each in every[:1] for name in ("sampler", "guidance")}
        return Table(
            rows=tuple(rows),
            shown=plan.shown,
            better=self.judge.better,
            protocol={
                "samples": plan.samples,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "device": str(self.device),
                **noted(self.precision),
                **self.judge.protocol(),
                **({"samplings": every} if any(way.name for way in self.ways) else sampled),
                **({} if generator is None else {"generator": dict(generator.sampling())}),
            },
            notes=(*size_notes(self.judge.width, rows, "--eval.samples"), *self.judge.notes),
        )


def row_of_generator(generator: Generator) -> Method:
    """The row of a run's generator."""
    opened, steps = partial(Opened.generator, generator), generator.steps
    return Method(name=f"generator, {steps_of(steps)}", kind="generator", steps=steps, open=opened)


def write_table(table: Table, folder: Folder) -> None:
    """Write the table of a run as ``evaluation.json`` and ``evaluation.md``, and print it."""
    folder.write_json(RUN_TABLE, table.to_dict())
    folder.write("evaluation.md", table.markdown().encode())
    Console().print(table.rich())


class Results:
    """Looks at the generator of a run, at its averaged weights.

    Args:
        job: The run's job.
        engine: Holds the trained parts.
        state: The part whose module is the generator.
        network: The teacher's network, on the training device.
        registry: The plugins that the evaluation plan names.
    """

    def __init__(
        self, job: Job, engine: Engine, state: PartState, network: Backbone, registry: Registry
    ) -> None:
        self.job, self.engine, self.state, self.network = job, engine, state, network
        assert isinstance(state.module, Generator)
        self.generator = state.module
        self.folder, self.device = engine.folder, engine.device
        how: Any = {"seed": job.seed, "device": engine.device, "precision": job.eval.precision}
        self.fixed = FixedSamples.of(job.teacher, job.conditions, **how)
        plan = job.teacher.evaluation() if job.eval.enabled else None
        self.reported = time.monotonic()
        self.rows: RunRows | None = None
        if plan is None and job.eval.enabled:
            logger.warning(
                "this teacher brings no evaluation plan: the run ends without a table, whatever eval.* says"
            )
        if plan is not None:
            more: dict[str, Any] = {"conditions": job.conditions, "seed": job.seed, "device": engine.device}
            more["ranks"] = engine.ranks
            self.rows = RunRows.of(
                job.teacher, plan, registry, settings=job.eval, sampler=job.sampler, **more
            )
            self.rows.judge.check()

    def show(self, step: int) -> Mapping[str, float]:
        """Write the sheet of fixed draws after ``step`` steps."""
        ranks = self.engine.ranks
        with self.state.averaged(), ranks.gathering(self.generator):
            sheet = self.fixed.of_generator(self.generator)
        name = f"samples/{step_name(step)}{sheet.suffix}"
        self.folder.write(name, sheet.data)
        self.job.tracker.picture(step, "samples", self.folder.path(name))
        return {}

    def judge(self, step: int) -> Mapping[str, float]:
        """Evaluate after ``step`` steps; keep the best generator so far in ``checkpoints/best``."""
        if self.rows is None:
            return {}
        rows, ranks = self.rows, self.engine.ranks
        with self.state.averaged():
            with ranks.gathering(self.generator):
                row = rows.row(row_of_generator(self.generator), self.job.eval.samples_on_the_way)
            best = self.engine.checkpoints.sub("best")
            if ranks.led(lambda: rows.judge.score(row.metrics) < self._best_before(step)):
                facts = {"step": step, "seed": self.job.seed, "metrics": dict(row.metrics)}
                save_generator(best, self.generator, self.job.teacher, self.job.config, facts)
        return {f"eval/{name}": value for name, value in row.metrics.items()}

    def _best_before(self, step: int) -> float:
        """The best score of evaluations before ``step``, from metrics.jsonl: nothing to save or resume."""
        assert self.rows is not None
        lines = [line for line in read_metrics(self.folder) if line["step"] < step]
        judged = ({k.removeprefix("eval/"): v for k, v in line.items() if "eval/" in k} for line in lines)
        return min(map(self.rows.judge.score, judged), default=math.inf)

    def refresh(self, step: int, values: Mapping[str, float]) -> None:
        """Write the report of a run that goes on, after each evaluation, and after a sheet if it is old.

        What goes wrong here is told and costs nothing else.

        Args:
            step: Finished steps.
            values: The newest scalars, which may not have reached metrics.jsonl yet.
        """
        judged = any(name.startswith("eval/") for name in values)
        if not self.engine.ranks.leads or not (judged or time.monotonic() - self.reported > OLD):
            return
        self.reported = time.monotonic()
        try:
            lines = [line for line in read_metrics(self.folder) if line["step"] < step]
            curves = plots([*lines, {"step": step, **values}])
            self._report(pictures=sheets_over_time(self.folder), plots=curves, running=True)
        except Interrupted:
            raise
        except Exception as error:
            logger.warning("the report was not refreshed after step {}: {}", step, reason(error))

    def _report(self, *, running: bool = False, **shown: Any) -> str:
        """Write ``report.html`` and return its path."""
        config, train, steps = self.job.config, self.job.train, steps_of(self.generator.steps)
        name, method = config["teacher"]["name"], " with the divergence ".join(self.job.method)
        done = f"{self.engine.step} of {train.steps}" if running else self.engine.step
        report = Report(
            title=f"{name}, {steps}",
            lead=f"A generator of {steps}, distilled from the teacher {name} by the objective {method}: "
            f"{done} steps of {train.batch_size} samples.",
            facts={
                "command": f"dimo run --config {quote(self.folder.path('config.yaml'))}",
                "device": str(self.device),
                **versions(),
            },
            config=config,
            running=running,
            **shown,
        )
        return write_report(self.folder, report)

    def finish(self) -> Table | None:
        """Table, pictures, plots and report; the generator holds the weights to be judged."""
        table, both = None, None
        self.show(self.engine.step)
        pictures = sheets_over_time(self.folder)
        if self.rows is not None:
            logger.info("evaluating: {} samples a row", self.rows.judge.plan.samples)
            with self.engine.ranks.gathering(self.generator):
                table = self.rows.table(self.generator, self.network)
                if (way := self.best_way(table)) is not None:
                    both = self.fixed.side_by_side(self.generator, self.network, way)
            write_table(table, self.folder)
            if both is not None:
                self.folder.write(f"samples/teacher_beside_generator{both.suffix}", both.data)
                pictures = {"teacher beside generator": both, **pictures}
        curves = {**(quality_plots(table) if table else {}), **plots(read_metrics(self.folder), table)}
        logger.info("report: {}", self._report(table=table, pictures=pictures, plots=curves))
        return table

    def best_way(self, table: Table) -> TeacherSampling | None:
        """How the teacher's row with the best score was sampled; None for a table without its rows."""
        assert self.rows is not None
        scores = {row.name: self.rows.judge.score(row.metrics) for row in table.rows if row.kind == "teacher"}
        drawn = [way for way in self.rows.ways if way.title in scores]
        return min(drawn, key=lambda way: scores[way.title], default=None)
