"""The report: one page, whole, escaped, and without a network."""

import re
from html.parser import HTMLParser

import pytest
import torch

from dimo_core.evaluation.table import Row, Table
from dimo_core.files.folder import Folder
from dimo_core.report.page import Report, sheets_over_time, write_report
from dimo_core.report.plots import plots, quality_plots
from dimo_core.report.sheets import Sheet, sheet
from dimo_core.teacher import Preview

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks nesting, and collects tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], [], []
        self.feed(html)
        assert [] == self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def row(kind, steps, **metrics):
    return Row(
        name=f"{kind}, {steps}",
        kind=kind,
        steps=steps,
        passes=steps,
        samples=10,
        seconds=0.5,
        metrics=metrics,
    )


TABLE = Table(
    rows=(
        row("teacher", 16, fid=14.0, readable=0.9),
        row("teacher", 1, fid=147.0, readable=0.5),
        row("generator", 1, fid=10.0, readable=0.8),
        Row(name="real data", kind="real", samples=9, metrics={"fid": 7.0}),
    ),
    shown=("fid", "readable"),
    better={"fid": "smaller", "readable": "larger"},
    protocol={"samples": 10, "reference": {"name": "digits", "split": "test"}, "metrics": [{"name": "fid"}]},
    notes=("few samples", "metric 'x' is missing: install <y>"),
)


@pytest.fixture(scope="module")
def page():
    picture = sheet(Preview(images=torch.zeros(4, 1, 8, 8, dtype=torch.uint8)))
    report = Report(
        title="maskgit & jeffrey",
        lead="2000 steps",
        facts={"command": "dimo run --beta 0.2"},
        table=TABLE,
        pictures={"teacher beside generator": picture},
        plots={**quality_plots(TABLE), **plots([{"step": 1, "loss": 1.0}], TABLE)},
        config={
            "divergence": {"name": "jeffrey", "beta": 0.2},
            "out": "runs/<x>",
            "init": None,
            "steps": [16, 8],
        },
    )
    return Page(report.html())


def test_the_page_has_its_sections_in_order(page):
    assert ["result", "samples", "training", "settings"] == [i for i in page.ids if i != "key"]
    assert ["maskgit & jeffrey"] * 2 == [t for t in page.text if t == "maskgit & jeffrey"]


def test_everything_is_within_the_page(page):
    assert [] == page.of("script") + page.of("link") + page.of("iframe")
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in page.of("img"))
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" == policy
    html = Report(title="x").html()
    assert not re.search(r"https?://|url\(|@import", html)


def test_every_image_has_a_text_and_its_size(page):
    images = page.of("img")
    assert 3 == len(images)
    assert all(attrs["alt"] and int(attrs["width"]) > 0 and int(attrs["height"]) > 0 for attrs in images)


def test_the_table_marks_the_generator_and_the_best_values(page):
    assert ["teacher", "teacher", "generator", "real"] == [a["class"] for a in page.of("tr") if "class" in a]
    assert 2 == len([a for a in page.of("td") if a.get("class") == "best"])
    for text in ("fid ↓", "readable ↑", "147.0", "passes", "samples/s"):
        assert text in page.text


def test_the_tiles_put_the_generator_beside_the_teacher_at_its_most_steps(page):
    text = " ".join(" ".join(page.text).split())
    assert "fid 10.00 teacher, 16: 14.00" in text
    assert "fewer forward passes 16x 1 instead of 16" in text


def test_notes_of_the_table_are_shown_once(page):
    assert ["few samples", "metric 'x' is missing: install <y>"] == [
        t for t in page.text if t.startswith(("few ", "metric '"))
    ]


def test_settings_are_listed_by_dotted_name(page):
    for text in (
        "divergence.beta",
        "0.2",
        "runs/<x>",
        "[16, 8]",
        "none",
        "reference.split",
        "metrics.0.name",
    ):
        assert text in page.text
    assert 2 == len(page.of("details"))


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$title ${x} &amp;"]
)
def test_text_from_outside_is_always_escaped(evil):
    table = Table(
        rows=(Row(name=evil, kind="generator", steps=1, samples=1, metrics={evil: 1.0}),),
        protocol={evil: evil},
        notes=(evil, evil + "2"),
    )
    image = sheet(Preview(images=torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    report = Report(
        title=evil,
        lead=evil,
        facts={evil: evil},
        table=table,
        pictures={evil: image, evil + "text": Sheet(evil.encode(), ".txt")},
        plots={evil: image.data},
        config={evil: [evil]},
    )
    page = Page(report.html())
    assert [] == page.of("script")
    assert 2 == len(page.of("img"))
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert evil in page.text


def test_text_previews_are_shown_as_text():
    page = Page(Report(title="t", pictures={"samples": Sheet(b"1 < 2\n", ".txt")}).html())
    assert "1 < 2\n" in page.text
    assert 1 == len(page.of("pre"))


def test_a_page_of_nothing_has_no_sections():
    assert [] == Page(Report(title="t").html()).ids


def test_the_page_is_written_into_the_folder(tmp_path):
    path = write_report(Folder(str(tmp_path)), Report(title="→ one step"))
    assert str(tmp_path / "report.html") == path
    assert "→ one step" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("steps", "most", "expected"),
    [
        ((0, 5, 10, 15, 20), 3, ["step 0", "step 10", "step 20"]),
        ((0, 1500), 4, ["step 0", "step 1500"]),
        ((7,), 4, ["step 7"]),
        ((), 4, []),
    ],
)
def test_sheets_over_time_are_the_first_the_last_and_some_between(tmp_path, steps, most, expected):
    folder = Folder(str(tmp_path))
    for step in steps:
        folder.write(f"samples/step_{step:06d}.txt", str(step).encode())
    folder.write("samples/other.png", b"")
    found = sheets_over_time(folder, most)
    assert expected == list(found)
    assert all((name.encode()[5:], ".txt") == (p.data, p.suffix) for name, p in found.items())
