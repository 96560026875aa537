"""``report.html``: one page that needs nothing but itself. Every text in it is escaped."""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template
from typing import Any

import attrs

from dimo_core.evaluation.numbers import aligned
from dimo_core.evaluation.protocols import flat
from dimo_core.evaluation.table import Row, Table
from dimo_core.files.folder import Folder
from dimo_core.report.sheets import Sheet

NAME = "report.html"
TILES = 4
NARROW = 1100  # pixels: wider pictures do not shrink to a phone, they scroll
RESULTS = ("quality", "quality_by_passes", "quality_by_seconds", "quality_by_temperature")
WIDE_PLOTS = frozenset({*RESULTS, "metrics", "others"})
PLOT_TEXTS = {
    "quality": "Each metric against the number of sampling steps: teacher, generator and real data",
    "quality_by_passes": "Each metric against the forward passes a sample takes, by sampler and generator",
    "quality_by_seconds": "Each metric against the seconds an image takes, by sampler and generator",
    "quality_by_temperature": "Each metric against the sampling temperature of the generators",
    "metrics": "Metrics of the generator while it was trained",
    "losses": "Losses over training steps",
    "gradient_norms": "Gradient norms of each part over training steps",
    "divergence": "Divergence between teacher and auxiliary over training steps",
    "entropy": "Entropy of generator and teacher at masked tokens over training steps",
    "logit_scale": "Scale of the generator's logits over training steps",
    "others": "Other scalars over training steps",
}


@attrs.frozen(kw_only=True)
class Report:
    """What a page shows, from top to bottom; whatever is empty is left out.

    Attributes:
        title: Heading.
        lead: A sentence below it.
        facts: Short facts by name, such as the command and versions.
        table: The result table.
        pictures: Sheets of samples by caption.
        plots: PNG files by the names that ``plots`` gives them.
        config: The resolved configuration.
    """

    title: str
    lead: str = ""
    facts: Mapping[str, str] = attrs.field(factory=dict)
    table: Table | None = None
    pictures: Mapping[str, Sheet] = attrs.field(factory=dict)
    plots: Mapping[str, bytes] = attrs.field(factory=dict)
    config: Mapping[str, Any] = attrs.field(factory=dict)

    def html(self) -> str:
        """The whole page."""
        curves = dict(self.plots)
        quality = {name: curves.pop(name) for name in RESULTS if name in curves}
        table = self.table or Table(rows=())
        result = _tiles(table) + _table(table) + _notes(table.notes) if self.table else ""
        sections = {
            "Result": result + _plots(quality),
            "Samples": _sheets(self.pictures),
            "Training": _plots(curves),
            "Settings": _details("Evaluation protocol", table.protocol)
            + _details("All options", self.config),
        }
        page = Template((files("dimo_core.report") / "page.html").read_text(encoding="utf-8"))
        return page.substitute(
            title=escape(self.title),
            lead=f'<p class="lead">{escape(self.lead)}</p>' if self.lead else "",
            facts=_facts(self.facts),
            sections="\n".join(_section(title, body) for title, body in sections.items() if body),
        )


def write_report(folder: Folder, report: Report) -> str:
    """Write ``report.html`` and its plots into a folder; returns its path."""
    for name, data in report.plots.items():
        folder.write(f"plots/{name}.png", data)
    folder.write(NAME, report.html().encode())
    return folder.path(NAME)


def sheets_over_time(folder: Folder, most: int = 4) -> dict[str, Sheet]:
    """The sheets that a run left in ``samples/``, by step: the first, the last, and some between.

    Args:
        folder: The run folder.
        most: How many to take.
    """
    names = [name for name in folder.sub("samples").names() if name.startswith("step_")]
    count = min(most, len(names))
    chosen = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    steps = {f"step {int(PurePosixPath(name).stem.removeprefix('step_'))}": name for name in chosen}
    return {
        step: Sheet(folder.read("samples", name), PurePosixPath(name).suffix) for step, name in steps.items()
    }


def _section(title: str, body: str) -> str:
    name = title.lower()
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}</h2>\n{body}\n</section>'


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd><code>{escape(v)}</code></dd>" for k, v in facts.items())
    return f'<dl class="facts">{items}</dl>' if items else ""


def _tiles(table: Table) -> str:
    """The generator's numbers in large, each beside the teacher's at its most steps; if there is just one."""
    generators = [row for row in table.rows if row.kind == "generator"]
    generator = generators[0] if len(generators) == 1 else None
    teacher = max((row for row in table.rows if row.kind == "teacher"), key=lambda r: r.steps, default=None)
    if generator is None:
        return ""
    names = [name for name in table.metrics if name in generator.metrics][:TILES]
    tiles = [_tile(name, generator, teacher) for name in names]
    if teacher is not None and generator.passes:
        fewer = f"{teacher.passes / generator.passes:g}x"
        tiles.append(_item("fewer forward passes", fewer, f"{generator.passes} instead of {teacher.passes}"))
    return f'<ul class="tiles" aria-label="The generator in one step">{"".join(tiles)}</ul>'


def _tile(name: str, generator: Row, teacher: Row | None) -> str:
    pair = aligned([generator.metrics[name], teacher.metrics.get(name) if teacher else None])
    return _item(name, pair[0], f"{teacher.name}: {pair[1]}" if teacher else "")


def _item(name: str, number: str, beside: str) -> str:
    return (
        f'<li><span class="name">{escape(name)}</span> <span class="number">{escape(number)}</span> '
        f'<span class="beside">{escape(beside)}</span></li>'
    )


def _table(table: Table) -> str:
    first, *others = table.columns()
    arrows = {name: {"larger": " ↑", "smaller": " ↓"}[better] for name, better in table.better.items()}
    titles = [escape(column.title + arrows.get(column.title, "")) for column in (first, *others)]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = []
    for i, row in enumerate(table.rows):
        cells = "".join(
            f'<td class="best">{escape(c.cells[i])}</td>' if i in c.best else f"<td>{escape(c.cells[i])}</td>"
            for c in others
        )
        body.append(f'<tr class="{row.kind}"><th scope="row">{escape(first.cells[i])}</th>{cells}</tr>')
    key = (
        "↓ smaller is better, ↑ larger is better; bold: best of the sampled rows. "
        "Passes: forward passes a sample, guidance counted. "
    )
    key += (
        "s/image: drawing and decoding. n: samples, x seeds; ± is the standard deviation over seeds, [ ] a "
        "95 % interval over halves of the samples."
        if table.compares
        else "Seconds: drawing the tokens of all n samples."
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Result table">'
        f'<table aria-describedby="key"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f'<p id="key" class="key">{key}</p>'
    )


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<ul class="notes" aria-label="Notes">{items}</ul>' if items else ""


def _sheets(pictures: Mapping[str, Sheet]) -> str:
    figures = []
    for caption, picture in pictures.items():
        if picture.suffix == ".txt":
            body = f'<pre tabindex="0">{escape(picture.data.decode(errors="replace"))}</pre>'
        else:
            body = _image(picture.data, f"Samples: {caption}")
        figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>")
    return f'<div class="sheets">{"".join(figures)}</div>' if figures else ""


def _plots(plots: Mapping[str, bytes]) -> str:
    figures = []
    for name, data in plots.items():
        wide = ' class="wide"' if name in WIDE_PLOTS else ""
        text = PLOT_TEXTS.get(name, name.replace("_", " "))
        figures.append(f"<figure{wide}>{_image(data, text)}</figure>")
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _image(data: bytes, alt: str) -> str:
    """A PNG inline; a wide one can be scrolled where the screen is narrow."""
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))  # PNG's IHDR
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
    if width <= NARROW:
        return image
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(alt)}">{image}</div>'


def _details(title: str, values: Mapping[str, Any]) -> str:
    """Nested values as a table of dotted names that opens on demand."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(value)}</code></td></tr>'
        for name, value in _flat(values)
    )
    return f"<details><summary>{escape(title)}</summary><table>{lines}</table></details>" if lines else ""


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in flat(values) if values else ():
        if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
            yield from _flat({f"{name}.{i}": inner for i, inner in enumerate(value)})
        elif isinstance(value, float) and math.isfinite(value):
            yield name, f"{value:g}"
        else:
            yield name, "none" if value is None else str(value)
