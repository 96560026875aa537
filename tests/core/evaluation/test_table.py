"""The table: alignment, best values, and its forms."""

import io
import math

import attrs
import pytest
from rich.console import Console

from dimo_core.evaluation.numbers import aligned, shortened
from dimo_core.evaluation.table import Row, Table


def row(name, kind="teacher", **metrics):
    return Row(name=name, kind=kind, steps=2, passes=4, samples=1000, seconds=0.5, metrics=metrics)


@pytest.fixture
def table():
    return Table(
        rows=(
            row("teacher, 2 steps", fid=120.5, readable=0.5, other=1.0),
            row("generator, 1 step", "generator", fid=10.25, readable=0.75),
            Row(name="real data", kind="real", samples=450, metrics={"fid": 2.5, "readable": 0.9}),
        ),
        shown=("readable", "absent"),
        better={"fid": "smaller", "readable": "larger", "other": "larger"},
        notes=("n is small",),
    )


def test_the_best_sampled_value_of_each_column_is_marked_and_real_data_never_is(table):
    assert {"readable": {1}, "fid": {1}} == {c.title: set(c.best) for c in table.columns() if c.best}


def test_a_column_of_one_value_or_of_unknown_direction_marks_nothing(table):
    assert frozenset() == table.best("other")
    assert frozenset() == table.best("unheard of")


def test_equal_values_are_all_best():
    table = Table(
        rows=(row("a", fid=1.0), row("b", fid=1.0), row("c", fid=math.nan)), better={"fid": "smaller"}
    )
    assert {0, 1} == table.best("fid")


def test_shown_metrics_come_first_and_others_follow(table):
    assert ("readable", "fid", "other") == table.metrics


def test_columns_are_aligned_and_real_data_has_no_cost(table):
    expected = {
        "samples of": ("teacher, 2 steps", "generator, 1 step", "real data"),
        "passes": ("4", "4", "-"),
        "seconds": ("0.500", "0.500", "-"),
        "samples/s": ("2000", "2000", "-"),
        "readable": ("0.500", "0.750", "0.900"),
        "fid": ("120.5", "10.2", "2.5"),
        "other": ("1.000", "-", "-"),
        "n": ("1000", "1000", "450"),
    }
    assert list(expected.items()) == [(column.title, column.cells) for column in table.columns()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1234, 0.9], ("0.123", "0.900")),
        ([0.01234, 0.0005], ("0.01234", "0.00050")),
        ([9.0, 12.345], ("9.00", "12.35")),
        ([5123.4, 1.0], ("5123", "1")),
        ([math.nan, 1.0], ("nan", "1.000")),
        ([-250.04, None], ("-250.0", "-")),
        ([], ()),
    ],
)
def test_numbers_of_a_column_share_their_decimals(values, expected):
    assert expected == aligned(values)


def test_seconds_keep_two_digits_of_the_fastest_row():
    """Their ratios are what a reader takes from the column."""
    slow = attrs.evolve(row("slow"), seconds=62.0, parameters=1_870_000)
    fast = attrs.evolve(row("fast"), seconds=1.1)
    columns = {column.title: column.cells for column in Table(rows=(slow, fast)).columns()}
    assert ("0.0620", "0.0011") == columns["s/sample"]
    assert ("1.87 M", "-") == columns["parameters"]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "-"), (999, "999"), (1_870_000, "1.87 M"), (1_006_946_304, "1.01 B")]
)
def test_large_counts_are_shortened(count, expected):
    assert expected == shortened(count)


def test_markdown_has_a_line_a_row_with_bold_best_values(table):
    lines = table.markdown().splitlines()
    assert "| samples of | passes | seconds | samples/s | readable | fid | other | n |" == lines[0]
    assert "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |" == lines[1]
    assert "| generator, 1 step | 4 | 0.500 | 2000 | **0.750** | **10.2** | - | 1000 |" == lines[3]
    assert 5 == len(lines)


def printed(table, width):
    output = io.StringIO()
    Console(file=output, width=width).print(table.rich(width))
    return output.getvalue()


def test_the_terminal_shows_every_row_and_note_but_the_chosen_metrics_only(table):
    text = printed(table, 120)
    for part in (
        "teacher, 2 steps",
        "generator, 1 step",
        "real data",
        "0.750",
        "n is small",
        "not shown: fid, other",
    ):
        assert part in text
    assert "120.5" not in text


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_shows_fewer_metrics_but_whole_numbers(table, width):
    many = {f"metric{i}": i + 0.125 for i in range(20)}
    text = printed(Table(rows=(row("generator, 1 step", **many),), shown=tuple(many)), width)
    assert "…" not in text
    head = next(line for line in text.splitlines() if "passes" in line)
    assert "metric0" in head
    assert ("metric6" in head) == (width > 100)
    assert "not shown: " in text
    assert all(len(line) <= width for line in text.splitlines())


def test_names_with_brackets_are_no_markup():
    output = io.StringIO()
    Console(file=output, width=120).print(Table(rows=(row("a [red]b[/red]", fid=1.0),)).rich(120))
    assert "a [red]b[/red]" in output.getvalue()


def test_numbers_that_are_not_finite_are_null_in_json():
    table = Table(rows=(row("a", fid=math.nan),))
    assert {"fid": None} == table.to_dict()["rows"][0]["metrics"]
    assert math.isnan(Table.from_dict(table.to_dict()).rows[0].metrics["fid"])
