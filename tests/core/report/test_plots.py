"""Plots: one for each group of scalars that is there."""

import io
import math
import sys

import numpy as np
import pytest
from PIL import Image

from dimo_core.evaluation.table import Row, Table
from dimo_core.report.plots import _smooth, plots, quality_plots, series_of, spread, spread_of


def opened(data):
    return Image.open(io.BytesIO(data))


def orange(data):
    """Pixels in the generator's colour."""
    pixels = np.asarray(opened(data).convert("RGB")).astype(int)
    return int((np.abs(pixels - (0xD5, 0x5E, 0x00)).sum(-1) < 30).sum())


def row(kind, steps, **metrics):
    return Row(
        name=f"{kind} {steps}", kind=kind, steps=steps, passes=steps, samples=10, seconds=1.0, metrics=metrics
    )


TABLE = Table(
    rows=(
        row("teacher", 16, fid=2.0),
        row("teacher", 1, fid=90.0),
        row("generator", 1, fid=3.0),
        row("real", 0, fid=1.0),
    ),
    better={"fid": "smaller"},
)

LINES = [
    {
        "step": step,
        "seconds": 0.1 * step,
        "auxiliary_loss": 3.0 / step,
        "grad_norm_generator": 1.0,
        "grad_norm_auxiliary": 50.0,
        "divergence": 0.1,
        "entropy_theta": 2.0,
        "logit_scale": 1.5,
        "clipped_share": 0.2,
        "skipped": 0.0,
        **({"eval/fid": 9.0} if step == 2 else {}),
    }
    for step in (1, 2, 3)
]


def test_every_group_that_has_scalars_gets_a_plot():
    expected = {
        "quality", "metrics", "losses", "gradient_norms", "divergence", "entropy", "logit_scale", "others",
    }  # fmt: skip
    found = {**quality_plots(TABLE), **plots(LINES, TABLE)}
    assert expected == set(found)
    assert all(opened(data).format == "PNG" for data in found.values())


def test_what_is_absent_gets_no_plot():
    assert {"losses"} == set(plots([{"step": 1, "loss": 2.0}]))
    assert {} == plots([])


def test_zeros_text_and_numbers_that_are_not_finite_are_left_out():
    lines = [
        {"step": 1, "loss": math.nan, "skipped": 0, "note": "x", "a": 1},
        {"step": 2, "loss": 2.0, "skipped": 0, "a": None},
    ]
    assert {"loss": ([2.0], [2.0]), "a": ([1.0], [1.0])} == series_of(lines)


def test_the_generator_is_drawn_into_the_quality_plot():
    without = Table(rows=tuple(r for r in TABLE.rows if r.kind != "generator"), better=TABLE.better)
    assert orange(quality_plots(without)["quality"]) == 0 < orange(quality_plots(TABLE)["quality"])


@pytest.mark.parametrize(
    "table",
    [
        Table(rows=()),
        Table(rows=(row("real", 0, fid=1.0),), better={"fid": "smaller"}),
        Table(rows=(row("teacher", 1, other=1.0),)),
    ],
)
def test_without_sampled_rows_or_chosen_metrics_there_is_no_quality_plot(table):
    assert {} == quality_plots(table)


def test_a_quality_plot_survives_missing_numbers():
    rows = (row("teacher", 2, fid=math.nan), row("generator", 1), row("teacher", 4, fid=2.0))
    assert {"quality"} == set(quality_plots(Table(rows=rows, better={"fid": "smaller"})))


def test_a_long_noisy_curve_is_smoothed_towards_its_mean():
    smooth = _smooth([1.0, 3.0] * 500)
    assert abs(smooth[-1] - 2.0) < 0.1
    assert [5.0] * 100 == pytest.approx(_smooth([5.0] * 100))


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 20.0], 20.0), ([0.0, 5.0], 0.0), ([-1.0, 5.0], 0.0), ([], 0.0)]
)
def test_only_positive_values_have_a_spread(values, expected):
    assert expected == spread(values)


def test_long_runs_and_many_scalars_can_be_drawn():
    lines = [
        {"step": i, "loss": 1 + 100 / (i + 1), **{f"s{k}": float(k + 1) for k in range(12)}}
        for i in range(200)
    ]
    assert {"losses", "others"} == set(plots(lines))


def test_pyplot_and_its_global_state_are_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert "losses" in plots(LINES[:1])


def test_a_metric_of_which_larger_is_better_has_an_even_axis():
    table = Table(rows=(), better={"fid": "smaller", "readable": "larger"})
    assert [20.0, 0.0, 20.0] == [spread_of(name, [1.0, 20.0], table) for name in ("fid", "readable", "other")]
