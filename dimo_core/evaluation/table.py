"""The table at the end of a run: what each way of sampling costs, and what its samples are worth."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dimo_core.evaluation.numbers import aligned, fine_decimals, shortened
from dimo_core.suggestions import several
from dimo_core.texts import shown

RATES = ("samples/s",)
FORMS = ((True, RATES), (False, RATES), (False, (*RATES, "parameters")))
"""What a terminal shows: whether spreads and intervals, and which columns it does without."""

ENOUGH = 4
"""So many metrics are shown rather than spreads, intervals and parameters, where there is no room for all."""

RUN_TABLE = "evaluation.json"
"""The table of a run, in its folder."""

NAME = 200
"""The most characters of a row's name."""

Kind = Literal["teacher", "generator", "images", "real"]
Better = Literal["larger", "smaller"]


def _pairs(edges: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    return {name: (low, high) for name, (low, high) in edges.items()}


def _named(name: str) -> str:
    return shown(name, NAME)


@attrs.frozen(kw_only=True)
class Origin:
    """Who made the samples of a row, and how.

    Attributes:
        name: As people read it, such as ``teacher, 16 steps``.
        kind: Who made the samples; ``images`` are files, ``real`` another part of the real data, the floor.
        steps: Sampling steps; 0 for real data.
        sampling: Name of the teacher's sampling; empty where the row is one of its step counts.
        series: What rows of one curve share, such as the sampler; empty where nobody compares samplers.
        temperature: Sampling temperature of a generator, where several are compared.
        drawn: How the samples were drawn: sampler and guidance, or a generator's sampling options.
    """

    name: str = attrs.field(converter=_named)
    kind: Kind
    steps: int = 0
    sampling: str = ""
    series: str = ""
    temperature: float | None = None
    drawn: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Row(Origin):
    """Samples of one origin: what they cost, and what they are worth.

    Attributes:
        passes: Forward passes a sample took, the guidance's second pass counted.
        samples: How many samples were judged.
        seconds: Time to draw the tokens of all of them; decoding and judging are not counted.
        metrics: The numbers by name; means, where there are several seeds.
        parameters: Of the network; 0 where nobody counted.
        decoding: Time to decode all the images.
        seeds: Seeds that the numbers are means over; ``samples`` were drawn for each.
        spread: Standard deviation over seeds, by metric.
        intervals: 95 % intervals over resamples, by metric.
        protocol: Digest of the protocol, where rows come from several files.
    """

    passes: int = 0
    samples: int
    seconds: float = 0.0
    metrics: Mapping[str, float]
    parameters: int = 0
    decoding: float = 0.0
    seeds: int = 1
    spread: Mapping[str, float] = attrs.field(factory=dict)
    intervals: Mapping[str, tuple[float, float]] = attrs.field(factory=dict, converter=_pairs)
    protocol: str = ""

    @property
    def rate(self) -> float:
        """Samples a second; 0 where nothing was sampled."""
        return self.samples * self.seeds / self.seconds if self.seconds > 0 else 0.0

    @property
    def each(self) -> float:
        """Seconds a sample, decoded; 0 where nothing was sampled."""
        return (self.seconds + self.decoding) / (self.samples * self.seeds)


@attrs.frozen(kw_only=True)
class Column:
    """A column as text, aligned to one number of decimals.

    Attributes:
        title: Heading.
        cells: One text a row.
        best: Indices of the rows with the best value among the sampled ones.
    """

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@attrs.frozen(kw_only=True)
class Table:
    """Rows in the order of reading, and how they came about.

    Attributes:
        rows: The teacher at each number of steps, the generator, and the real floor if there is one.
        shown: Metrics whose columns come first, in this order; others follow.
        better: Which direction is good, by metric; the best value of those metrics is marked.
        protocol: Sample count, seed, reference, extractor, sampler, guidance: what makes numbers comparable.
        notes: What a reader must know about these numbers.
    """

    rows: tuple[Row, ...]
    shown: tuple[str, ...] = attrs.field(default=(), converter=several)
    better: Mapping[str, Better] = attrs.field(factory=dict)
    protocol: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = attrs.field(default=(), converter=several)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of their columns."""
        found = dict.fromkeys(name for row in self.rows for name in row.metrics)
        first = [name for name in self.shown if name in found]
        return (*first, *(name for name in found if name not in first))

    def best(self, metric: str) -> frozenset[int]:
        """The best sampled rows in a metric; none where no direction is known or nothing is compared."""
        values = {
            i: row.metrics[metric]
            for i, row in enumerate(self.rows)
            if row.kind != "real" and math.isfinite(row.metrics.get(metric, math.nan))
        }
        if metric not in self.better or len(values) < 2:
            return frozenset()
        extreme = (max if self.better[metric] == "larger" else min)(values.values())
        return frozenset(i for i, value in values.items() if value == extreme)

    def columns(self, metrics: Sequence[str] = (), *, full: bool = True) -> list[Column]:
        """Names, costs, metrics and sample counts as text.

        Args:
            metrics: Which metrics; all when empty.
            full: Whether metrics have their spread and interval beside them.
        """

        def cost(title: str, value: Callable[[Row], float], decimals: int | None = None) -> Column:
            sampled = [row.kind in ("teacher", "generator") for row in self.rows]
            values = [float(value(r)) if s else None for r, s in zip(self.rows, sampled, strict=True)]
            return Column(title=title, cells=aligned(values, decimals))

        costs = [cost("seconds", lambda row: row.seconds), cost("samples/s", lambda row: row.rate)]
        sizes = []
        if self.compares:
            costs = [
                cost("s/sample", lambda row: row.each, fine_decimals([row.each for row in self.rows])),
                cost("samples/s", lambda row: 1 / row.each if row.each else 0.0),
            ]
            sizes = [Column(title="parameters", cells=tuple(shortened(row.parameters) for row in self.rows))]
        counts = [f"{row.samples}{f' x {row.seeds}' if row.seeds > 1 else ''}" for row in self.rows]
        return [
            Column(title="samples of", cells=tuple(row.name for row in self.rows)),
            cost("passes", lambda row: row.passes, 0),
            *costs,
            *(self._number(metric, full) for metric in metrics or self.metrics),
            Column(title="n", cells=tuple(counts)),
            *sizes,
        ]

    @property
    def compares(self) -> bool:
        """Whether this is a table of `dimo compare`, in which decoding is counted too."""
        return any(row.parameters for row in self.rows)

    def _number(self, metric: str, full: bool) -> Column:
        """A metric, with its spread over seeds and its interval where there are any."""
        cells = aligned([row.metrics.get(metric) for row in self.rows])
        if not full:
            return Column(title=metric, cells=cells, best=self.best(metric))
        decimals = max(len(cell.partition(".")[2]) for cell in cells)
        longer = []
        for cell, row in zip(cells, self.rows, strict=True):
            if metric in row.spread:
                cell += f" ±{row.spread[metric]:.{decimals}f}"
            if metric in row.intervals:
                low, high = row.intervals[metric]
                cell += f" [{low:.{decimals}f}, {high:.{decimals}f}]"
            longer.append(cell)
        return Column(title=metric, cells=tuple(longer), best=self.best(metric))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``evaluation.json``; numbers that are not finite become null."""
        plain: dict[str, Any] = finite(attrs.asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Table":
        """Read what ``to_dict`` wrote."""

        def row(values: Mapping[str, Any]) -> Row:
            metrics = {k: math.nan if v is None else v for k, v in values["metrics"].items()}
            return Row(**{**values, "metrics": metrics})

        own = {field.name: data[field.name] for field in attrs.fields(cls)}
        return cls(**{**own, "rows": tuple(map(row, data["rows"]))})

    def rich(self, width: int | None = None) -> RichTable:
        """The table for a terminal: the shown metrics as far as they fit, best values bold, notes below.

        Args:
            width: Characters a line; that of the terminal when None.
        """
        chosen, columns = self._fitting(width or Console().width)
        hidden = ", ".join(name for name in self.metrics if name not in chosen)
        notes = [*self.notes, *([f"not shown: {hidden}"] if hidden else [])]
        result = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left")
        result.caption = Text("\n".join(map(shown, notes))) if notes else None
        for i, column in enumerate(columns):
            result.add_column(Text(column.title), justify="right" if i else "left", no_wrap=True)
        for i, row in enumerate(self.rows):
            style = {"teacher": "", "generator": "cyan", "images": "", "real": "dim"}[row.kind]
            cells = (Text(c.cells[i], style="bold" if i in c.best else "") for c in columns)
            result.add_row(*cells, style=style)
        return result

    def _fitting(self, width: int) -> tuple[list[str], list[Column]]:
        """Which metrics fit into a terminal, and its columns; intervals and parameters go first."""
        shown = [name for name in self.metrics if name in self.shown] or list(self.metrics)
        enough = min(ENOUGH, len(shown))
        forms = [(n, full, out) for full, out in FORMS for n in range(len(shown), enough - 1, -1)]
        for count, full, left_out in [*forms, *((n, *FORMS[-1]) for n in range(enough - 1, 0, -1))]:
            columns = [c for c in self.columns(shown[:count], full=full) if c.title not in left_out]
            if _width(columns) <= width:
                break
        return shown[:count], columns

    def markdown(self) -> str:
        """The table for a README or a model card; best values are bold."""
        columns = self.columns()
        lines = [
            [column.title for column in columns],
            ["---", *["---:"] * (len(columns) - 1)],
            *(
                [f"**{c.cells[i]}**" if i in c.best else c.cells[i] for c in columns]
                for i in range(len(self.rows))
            ),
        ]
        return "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
        )


def _width(columns: Sequence[Column]) -> int:
    """Characters a line of the terminal's table takes, two of them after each column."""
    return sum(max(map(len, (c.title, *c.cells))) + 2 for c in columns)


def finite(value: Any) -> Any:
    """Plain data in which numbers that are not finite are null, for JSON."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
