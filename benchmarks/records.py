"""Numbers of trained generators that outlive their runs, in a JSON file beside the tables made from it.

A record holds the mean and the standard deviation of each metric over some seeds. Those of different seeds
are pooled, so seeds may be trained on different days and machines.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs

from dimo_core.evaluation.table import Row


@attrs.frozen(kw_only=True)
class Record:
    """What was measured of one method in one number of steps.

    Attributes:
        teacher: Whose generators.
        method: Their preset.
        steps: Of a sample.
        seeds: Of the trainings.
        passes: Forward passes of a sample.
        metrics: Mean and standard deviation over the seeds, the latter 0 of one seed.
        trained_for: Steps that the generators were trained for, where they are sampled in others too.
    """

    teacher: str
    method: str
    steps: int
    seeds: tuple[int, ...]
    passes: int
    metrics: Mapping[str, tuple[float, float]]
    trained_for: int | None = None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What records of other seeds share."""
        return self.teacher, self.method, self.trained_for or self.steps, self.steps

    @classmethod
    def of(cls, run: tuple[str, str, int, int], row: Row, trained_for: int | None = None) -> "Record":
        """That of one run: teacher, method, steps and seed."""
        teacher, method, steps, seed = run
        metrics = {name: (value, 0.0) for name, value in row.metrics.items()}
        return cls(
            teacher=teacher,
            method=method,
            steps=steps,
            seeds=(seed,),
            passes=row.passes,
            metrics=metrics,
            trained_for=trained_for,
        )

    def shown(self, metric: str, digits: int = 3) -> str:
        """Mean, with the standard deviation of several seeds; a hyphen where it was not measured."""
        if metric not in self.metrics:
            return "-"
        mean, deviation = self.metrics[metric]
        return f"{mean:.{digits}f}" + (f" ±{deviation:.{digits}f}" if len(self.seeds) > 1 else "")


def pooled(records: Sequence[Record]) -> Record:
    """One record of all seeds, with the metrics that all have."""
    sizes = [len(record.seeds) for record in records]
    total, metrics = sum(sizes), {}
    for name in records[0].metrics:
        if all(name in record.metrics for record in records):
            parts = [record.metrics[name] for record in records]
            mean = fmean([m for m, _ in parts], sizes)
            squares = sum(
                (n - 1) * s**2 + n * (m - mean) ** 2 for n, (m, s) in zip(sizes, parts, strict=True)
            )
            metrics[name] = mean, sqrt(squares / (total - 1)) if total > 1 else 0.0
    seeds = tuple(sorted(seed for record in records for seed in record.seeds))
    return attrs.evolve(records[0], seeds=seeds, metrics=metrics)


def joined(kept: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """All records, without a seed twice: an old one goes when all its seeds are new."""
    found = list(kept)
    for key in dict.fromkeys(record.key for record in new):
        mine = [record for record in new if record.key == key]
        seeds = {seed for record in mine for seed in record.seeds}
        old = [record for record in kept if record.key == key and not seeds.issuperset(record.seeds)]
        taken = {seed for record in old for seed in record.seeds}
        found = [record for record in found if record.key != key]
        found += [*old, *(record for record in mine if not taken.intersection(record.seeds))]
    return sorted(found, key=lambda record: (record.key, record.seeds))


def by_method(records: Sequence[Record]) -> Iterator[Record]:
    """Records of the same method and steps as one."""
    for key in dict.fromkeys(record.key for record in records):
        yield pooled([record for record in records if record.key == key])


def read(path: Path) -> list[Record]:
    """The records of a file; none where there is no file."""
    entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    found = []
    for entry in entries:
        metrics = {name: (mean, deviation) for name, (mean, deviation) in entry["metrics"].items()}
        found.append(Record(**entry | {"seeds": tuple(entry["seeds"]), "metrics": metrics}))
    return found


def write(path: Path, records: Sequence[Record]) -> None:
    """Write a file, a line a record."""
    lines = [json.dumps(attrs.asdict(record)) for record in records]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
