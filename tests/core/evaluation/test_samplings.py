"""The teacher's rows by named samplings: the table, its plots and pictures, and the report."""

import json

import attrs
import pytest
import torch

from dimo_core.choice import Choice
from dimo_core.errors import UnknownNameError
from dimo_core.evaluation.table import Table
from dimo_core.jobs.results import Results, RunRows
from dimo_core.report.page import Report
from dimo_core.report.plots import quality_plots
from dimo_core.settings import Evaluate
from dimo_core.suggestions import Sampling

SAMPLINGS = {
    "greedy": Sampling(
        steps=3,
        sampler=Choice("toy", {"greed": 1.0}),
        guidance=Choice("constant", {"scale": 2.0}),
        source="here",
    ),
    "lazy": Sampling(steps=3, sampler=Choice("toy"), guidance=Choice("constant"), source="there"),
}


@pytest.fixture
def evaluator(toy):
    teacher = type("Named", (toy.Teacher,), {"samplings": lambda self: SAMPLINGS})()

    def make(*names):
        return RunRows.of(
            teacher,
            toy.plan,
            toy.Registry(),
            conditions=toy.Conditions(),
            settings=Evaluate(batch_size=8, samplings=names),
            device=torch.device("cpu"),
        )

    return make


@pytest.fixture
def table(evaluator, toy):
    return evaluator("lazy", "greedy").table(toy.Generator(), toy.Backbone())


def test_samplings_replace_the_step_counts_in_the_order_given(table):
    assert [
        ("teacher, lazy (3 steps)", "teacher", 3, 6, "lazy"),
        ("teacher, greedy (3 steps)", "teacher", 3, 6, "greedy"),
        ("generator, 1 step", "generator", 1, 1, ""),
        ("real data", "real", 0, 0, ""),
    ] == [(r.name, r.kind, r.steps, r.passes, r.sampling) for r in table.rows]


def test_the_protocol_tells_how_each_was_sampled(table):
    greedy = {"class": "ToySampler", "greed": 1.0}
    assert [("lazy", 3), ("greedy", 3)] == [(s["sampling"], s["steps"]) for s in table.protocol["samplings"]]
    assert greedy == table.protocol["samplings"][1]["sampler"]
    assert {"class": "Constant", "scale": 2.0} == table.protocol["samplings"][1]["guidance"]
    assert "sampler" not in table.protocol


def test_a_repeated_name_is_one_row(evaluator):
    assert ["lazy"] == [way.name for way in evaluator("lazy", "lazy").ways]


def test_an_unknown_sampling_is_an_error(evaluator):
    with pytest.raises(UnknownNameError, match=r"unknown sampling 'lasy'.*Did you mean 'lazy'"):
        evaluator("lasy")


def test_the_table_survives_json_and_older_tables_are_read(table):
    data = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert table == Table.from_dict(data)
    for row in data["rows"]:
        del row["sampling"]
    assert [""] * 4 == [row.sampling for row in Table.from_dict(data).rows]


def test_plots_and_report_show_such_rows(table):
    assert quality_plots(table)["quality"].startswith(b"\x89PNG")
    report = Report(
        title="t", lead="l", facts={}, table=table, pictures={}, plots={}, config={"teacher": {"name": "toy"}}
    )
    html = report.html()
    assert "teacher, greedy (3 steps)" in html


@pytest.mark.parametrize("best", ["greedy", "lazy"])
def test_the_picture_takes_the_best_way(evaluator, table, best):
    rows = [
        attrs.evolve(row, metrics={"brightness": 0.0 if row.sampling == best else 1.0}) for row in table.rows
    ]
    results = Results.__new__(Results)
    results.rows = evaluator("lazy", "greedy")
    assert best == results.best_way(attrs.evolve(table, rows=tuple(rows))).name


def test_a_table_without_teacher_rows_has_no_best_way(evaluator, table):
    results = Results.__new__(Results)
    results.rows = attrs.evolve(evaluator(), ways=())
    assert results.best_way(attrs.evolve(table, rows=table.rows[2:])) is None
