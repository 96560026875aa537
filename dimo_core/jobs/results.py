"""What a distillation run shows: sheets on the way, evaluations on the way, and the report at the end."""

from collections.abc import Mapping

from loguru import logger
from rich.console import Console
from torch import nn

from dimo_core.backbone import Backbone
from dimo_core.config.distil import Job
from dimo_core.engine.checkpoint import step_name
from dimo_core.engine.loop import Engine
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.evaluation.comparison import Evaluator
from dimo_core.evaluation.table import Table
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator, versions
from dimo_core.generator import Generator
from dimo_core.registry import Registry
from dimo_core.report.fixed_samples import Showcase
from dimo_core.report.page import Report, sheets_over_time, write_report
from dimo_core.report.plots import plots
from dimo_core.report.sheets import Picture
from dimo_core.sampler import TeacherSampling


class Results:
    """Looks at the generator of a run, at its averaged weights.

    Args:
        job: The run's job.
        engine: Holds the trained parts.
        generator: The module of the part ``generator``.
        network: The teacher's network, on the training device.
        registry: The plugins that the evaluation plan names.
    """

    def __init__(
        self, job: Job, engine: Engine, generator: Generator, network: nn.Module, registry: Registry
    ) -> None:
        assert isinstance(network, Backbone), "the frozen module 'teacher' is a Backbone"
        self.job, self.engine, self.generator, self.network = job, engine, generator, network
        self.folder, self.device = Folder(job.out), engine.device
        self.showcase = Showcase.of(job.teacher, job.conditions, seed=job.seed, device=engine.device)
        plan = job.teacher.evaluation() if job.eval.enabled else None
        self.evaluator: Evaluator | None = None
        if plan is None and job.eval.enabled:
            logger.warning(
                "this teacher brings no evaluation plan: the run ends without a table, whatever eval.* says"
            )
        if plan is not None:
            self.evaluator = Evaluator.resolve(
                job.teacher,
                plan,
                registry,
                conditions=job.conditions,
                settings=job.eval,
                seed=job.seed,
                device=engine.device,
                sampler=job.sampler,
            )
            self.evaluator.judge.check()

    def show(self, step: int) -> Mapping[str, float]:
        """Write the sheet of fixed draws after ``step`` steps."""
        with self.engine.states["generator"].averaged():
            picture = self.showcase.picture(self.showcase.of_generator(self.generator))
        name = f"samples/{step_name(step)}{picture.suffix}"
        self.folder.write(name, picture.data)
        self.job.tracker.picture(step, "samples", self.folder.path(name))
        return {}

    def judge(self, step: int) -> Mapping[str, float]:
        """Evaluate after ``step`` steps; keep the best generator so far in ``checkpoints/best``."""
        if self.evaluator is None:
            return {}
        with self.engine.states["generator"].averaged():
            row = self.evaluator.generator_row(self.generator, samples=self.job.eval.samples_on_the_way)
            score = self.evaluator.judge.score(row.metrics)
            best = self.engine.checkpoints.sub("best")
            if score < self._best_before(step):
                facts = {"step": step, "seed": self.job.seed, "metrics": dict(row.metrics)}
                save_generator(best, self.generator, self.job.teacher, self.job.config, facts)
        return {f"eval/{name}": value for name, value in row.metrics.items()}

    def _best_before(self, step: int) -> float:
        """The best score of evaluations before ``step``, from metrics.jsonl: nothing to save or resume."""
        assert self.evaluator is not None
        scores = [
            self.evaluator.judge.score(
                {k.removeprefix("eval/"): v for k, v in line.items() if k.startswith("eval/")}
            )
            for line in read_metrics(self.folder)
            if line["step"] < step and any(k.startswith("eval/") for k in line)
        ]
        return min(scores, default=float("inf"))

    def finish(self) -> Table | None:
        """Table, pictures, plots and report; the generator holds the weights to be judged."""
        table = None
        self.show(self.engine.step)
        pictures = sheets_over_time(self.folder)
        if self.evaluator is not None:
            logger.info("evaluating: {} samples a row", self.evaluator.protocol(self.generator)["samples"])
            table = self.evaluator.table(self.generator, self.network)
            publish(table, self.folder)
            if (way := self.best_way(table)) is not None:
                side_by_side = self.showcase.teacher_beside_generator(
                    self.generator, self.network, way.sampler, way.guidance, way.steps
                )
                self.folder.write(f"samples/teacher_beside_generator{side_by_side.suffix}", side_by_side.data)
                pictures = {"teacher beside generator": side_by_side, **pictures}
        curves = plots(read_metrics(self.folder), table)
        for name, data in curves.items():
            self.folder.write(f"plots/{name}.png", data)
        path = write_report(self.folder, self._report(table, pictures, curves))
        logger.info("report: {}", path)
        return table

    def best_way(self, table: Table) -> TeacherSampling | None:
        """How the teacher's row with the best score was sampled; None for a table without its rows."""
        assert self.evaluator is not None
        rows = [row for row in table.rows if row.kind == "teacher"]
        scores = [self.evaluator.judge.score(row.metrics) for row in rows]
        pairs = zip(scores, self.evaluator.ways, strict=True)
        return min(pairs, key=lambda pair: pair[0], default=(None, None))[1]

    def _report(
        self, table: Table | None, pictures: Mapping[str, Picture], curves: Mapping[str, bytes]
    ) -> Report:
        config = self.job.config
        teacher, divergence = config["teacher"]["name"], config["divergence"]["name"]
        return Report(
            title=f"{teacher}, one step",
            lead=f"A one-step generator distilled from the teacher {teacher} with the divergence "
            f"{divergence}: {self.engine.step} steps of {self.job.train.batch_size} samples.",
            facts={
                "command": f"dimo run --config {self.folder.path('config.yaml')}",
                "device": str(self.device),
                **versions(),
            },
            table=table,
            pictures=pictures,
            plots=curves,
            config=config,
        )


def publish(table: Table, folder: Folder) -> None:
    """Write a result table as ``evaluation.json`` and ``evaluation.md``, and print it."""
    folder.write_json("evaluation.json", table.to_dict())
    folder.write("evaluation.md", table.markdown().encode())
    Console().print(table.rich())
