"""What a comparison leaves: files, merged results with warnings, plots; and pictures that are judged."""

import csv
import json
import math

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError, UsageError
from dimo_core.evaluation.comparison import COUNTS_DIFFER
from dimo_core.evaluation.drawing import Method
from dimo_core.evaluation.reference import picture_batches, record_seal
from dimo_core.evaluation.table import Row, Table
from dimo_core.files.folder import Folder
from dimo_core.files.images import Listing, png
from dimo_core.jobs.compared import labels
from dimo_core.report.comparison_files import Comparable, csv_text, merged, publish, read_result, warnings
from dimo_core.report.comparison_table import row_of as rows_of
from dimo_core.report.plots import quality_plots
from dimo_core.report.sheets import Sheet

LABELS = Conditioning(kind="label", classes=("even", "odd"))


def row(name="maskgit, 4 steps", kind="teacher", **changes):
    values = {
        "name": name,
        "kind": kind,
        "series": name.partition(",")[0],
        "steps": 4,
        "passes": 8,
        "samples": 50,
        "seconds": 2.0,
        "decoding": 0.5,
        "parameters": 485380,
        "metrics": {"fid": 2.0, "odd": math.nan},
        "protocol": "one",
    }
    return Row(**{**values, **changes})


REAL = row(
    "real data", "real", steps=0, passes=0, seconds=0.0, decoding=0.0, parameters=0, metrics={"fid": 0.1}
)


def result(*rows, protocol=None, device="cpu"):
    facts = protocol or {"name": "plan", "samples": 50}
    table = Table(
        rows=(*(rows or (row(),)), REAL), shown=("fid",), better={"fid": "smaller"}, notes=("few samples",)
    )
    key = "one" if protocol is None else "two"
    return Comparable(table=table, protocols={key: facts}, machine={"device": device}, cells=[{"seed": 0}])


def test_costs_count_decoding_and_all_seeds():
    one = row(seeds=5)
    assert 2.5 / 250 == one.each
    columns = {column.title: column.cells for column in result(one).table.columns()}
    assert ("0.010", "100.0", "50 x 5", "485 k", "8") == tuple(
        columns[name][0][:6] for name in ("s/sample", "samples/s", "n", "parameters", "passes")
    )
    assert ("-", "-") == (columns["s/sample"][1], columns["parameters"][1])


def test_spread_and_interval_stand_beside_a_number():
    table = result(row(spread={"fid": 0.25}), row(intervals={"fid": (1.5, 2.75)})).table
    (column,) = [column for column in table.columns() if column.title == "fid"]
    assert ("2.000 ±0.250", "2.000 [1.500, 2.750]", "0.100") == column.cells


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_fits_its_terminal(width):
    from rich.console import Console

    many = {f"metric{i}": 0.5 for i in range(12)}
    rows = [row(metrics=many, spread=dict.fromkeys(many, 0.1)), row("halton, 4 steps", metrics=many)]
    table = attrs.evolve(result(*rows).table, shown=tuple(many))
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table.rich(width))
    lines = capture.get().splitlines()
    assert not [line for line in lines if "…" in line]
    assert ("±" in capture.get()) == (width == 200)


def test_all_files_are_there_and_say_the_same(tmp_path):
    publish(result(), Folder(str(tmp_path)), title="t", lead="l", facts={"command": "dimo compare"})
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    plots = {"plots/quality_by_passes.png", "plots/quality_by_seconds.png"}
    assert {"results.json", "results.csv", "results.md", "report.html", *plots} == names
    data = json.loads((tmp_path / "results.json").read_text())
    assert ("dimo-comparison/1", None) == (data["format"], data["rows"][0]["metrics"]["odd"])
    (first, _) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert ("2.0", "8", "0.05", "485380") == tuple(
        first[name] for name in ("fid", "passes", "seconds_an_image", "parameters")
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "* few samples" in (tmp_path / "results.md").read_text()


def test_results_survive_their_file(tmp_path):
    one = attrs.evolve(
        result(row(metrics={"fid": 2.0}, spread={"fid": 0.5}, intervals={"fid": (1.0, 3.0)})),
        pictures={"grid": Sheet(png(Image.new("L", (4, 4))), ".png")},
    )
    publish(one, Folder(str(tmp_path)), title="t", lead="", facts={})
    for path in (str(tmp_path), str(tmp_path / "results.json")):
        found = read_result(path)
        assert (one.table, one.protocols, one.machine) == (found.table, found.protocols, found.machine)
        assert next(iter(one.pictures.values())) == next(iter(found.pictures.values()))


@pytest.mark.parametrize("content", [None, "{}", "[1]", "x: [", '{"format": "dimo-comparison/9"}'])
def test_what_holds_no_results_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UsageError, match="holds no results of `dimo compare`"):
        read_result(str(tmp_path))


def test_merged_rows_are_told_apart_and_real_data_stands_once():
    table = merged({"a": result(), "b": result(row(metrics={"fid": 3.0}))}).table
    assert ["maskgit, 4 steps (a)", "real data", "maskgit, 4 steps (b)"] == [r.name for r in table.rows]
    assert ("few samples",) == table.notes


def test_merging_different_protocols_warns_and_names_the_difference():
    other = result(row("b", protocol="two"), protocol={"name": "mine", "samples": 9}, device="cuda")
    found = merged({"a": result(), "b": other})
    assert (
        "Numbers of different protocols do not compare; these rows differ in samples (50 | 9)."
        == found.table.notes[0]
    )
    assert "Seconds do not compare; they were measured with device (cpu | cuda)." == found.table.notes[1]
    assert {"one", "two"} == set(found.protocols)


def test_merging_rows_of_different_counts_warns_where_their_tables_could_not():
    found = merged({"a": result(row("a", "images", samples=50)), "b": result(row("b", samples=20))})
    assert COUNTS_DIFFER == found.table.notes[0]
    assert COUNTS_DIFFER not in merged({"a": result(), "b": result(row("b"))}).table.notes


def test_a_metric_that_one_seed_lacks_has_no_spread():
    method = Method(
        name="g", kind="generator", series="g", steps=1, identity={}, open=lambda: pytest.fail("opened")
    )
    cell = {"samples": 5, "passes": 1, "seconds": 1.0, "decoding": 0.0, "parameters": 1, "intervals": {}}
    found = rows_of(method, [{**cell, "metrics": {"x": 1.0, "y": 2.0}}, {**cell, "metrics": {"x": 2.0}}], "p")
    assert {"x"} == set(found.spread)
    assert math.isnan(found.metrics["y"])


def test_one_protocol_and_one_machine_warn_of_nothing():
    assert [] == warnings({"one": {"samples": 1}}, [{"device": "cpu"}] * 2)


def test_a_sweep_of_temperatures_has_a_plot_of_its_own():
    rows = [row(f"g, T = {t}", "generator", temperature=t) for t in (1.0, 3.0)]
    assert {"quality_by_passes", "quality_by_seconds", "quality_by_temperature"} == set(
        quality_plots(result(*rows).table)
    )
    assert {} == quality_plots(Table(rows=(REAL,), better={"fid": "smaller"}))


def test_csv_has_the_metric_names_once():
    head = next(csv.reader(csv_text(result().table).splitlines()))
    assert len(head) == len(set(head))


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["runs/a/generator", "runs/b/generator"], ["a", "b"]),
        (["x/run/generator", "y/run/generator"], ["x/run", "y/run"]),
        (["generator"], ["generator"]),
        (["s3://bucket/run/checkpoints/best"], ["run"]),
        ([], []),
    ],
)
def test_generators_are_named_by_as_much_of_their_path_as_tells_them_apart(urls, expected):
    assert expected == labels(urls)


@pytest.fixture
def pictures(tmp_path):
    def write(*shapes):
        for i, shape in enumerate(shapes):
            array = np.full(shape, i, dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / f"{i:03d}.png")
        return str(tmp_path)

    return write


def test_pictures_are_read_in_order_with_unknown_conditions(pictures):
    url = pictures(*[(2, 3)] * 5)
    batches = list(picture_batches(url, LABELS, 2))
    assert [(2, 1, 2, 3), (2, 1, 2, 3), (1, 1, 2, 3)] == [tuple(b.images.shape) for b in batches]
    assert [0, 1, 2, 3, 4] == torch.cat([b.images for b in batches])[:, 0, 0, 0].tolist()
    assert (None, None) == batches[0].conditions


def test_a_part_of_pictures_is_of_all_kinds_and_always_the_same(pictures, tmp_path):
    url = pictures(*[(2, 2)] * 20)
    lines = [{"file": f"{i:03d}.png", "condition": ("odd", "even")[i % 2]} for i in range(20)]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (part,), (again,) = (list(picture_batches(url, LABELS, 20, count=10)) for _ in range(2))
    numbers = part.images[:, 0, 0, 0].tolist()
    assert 10 == len({*numbers})
    assert numbers == sorted(numbers) == again.images[:, 0, 0, 0].tolist()
    assert part.conditions == tuple(1 - number % 2 for number in numbers)
    assert {0, 1} == {*part.conditions}


def test_colours_have_three_channels(pictures):
    (batch,) = picture_batches(pictures((2, 2, 3)), LABELS, 4)
    assert (1, 3, 2, 2) == tuple(batch.images.shape)


def test_pictures_of_dimo_sample_have_their_conditions_and_the_grid_is_none_of_them(pictures, tmp_path):
    url = pictures((2, 2), (2, 2))
    Image.new("L", (9, 9)).save(tmp_path / "grid.png")
    lines = [{"file": f"{i:03d}.png", "condition": name} for i, name in enumerate(("odd", "even"))]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (batch,) = picture_batches(url, LABELS, 4)
    assert ((1, 0), 2) == (batch.conditions, len(batch.images))


def test_a_record_of_others_is_left_alone_with_a_warning(pictures, tmp_path, told):
    url = pictures((2, 2), (2, 2))
    (tmp_path / "samples.jsonl").write_text(
        '{"id": 0, "prompt": "x"}\n[1]\nno json\n{"file": 1, "condition": "x"}\n'
    )
    (batch,) = picture_batches(url, LABELS, 4)
    assert ((None, None), 2) == (batch.conditions, len(batch.images))
    assert any("samples.jsonl is not of `dimo sample`" in line for line in told)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"file": "000.png", "condition": "odd"}', "torn"], "line 2 is not that of sample 1"),
        (['{"file": "000.png", "condition": "odd"}', '{"file": "001.png"}'], "line 2 is not that"),
        (['{"file": "001.png", "index": 1, "condition": "odd"}'], "line 1 is not that of sample 0"),
        (['{"file": "009.png", "condition": "odd"}'], r"names '009\.png', and there is no such picture"),
        (['{"file": "../x/000.png", "condition": "odd"}'], "there is no such picture"),
    ],
)
def test_a_damaged_record_of_samples_is_named(pictures, tmp_path, lines, message):
    url = pictures((2, 2), (2, 2))
    (tmp_path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UsageError, match=rf"samples\.jsonl .*{message}"):
        list(picture_batches(url, LABELS, 4))


def sealed(*, of: int) -> list[str]:
    """The lines that ``dimo sample`` writes."""
    facts = {"of": of, "condition": "odd", "tokens": [1]}
    lines = [{"file": f"{i:03d}.png", "index": i, **facts} for i in range(of)]
    return [json.dumps({**line, "checksum": record_seal(line)}) for line in lines]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:2], "2 lines of 4 are there"),
        (lambda lines: lines[1:], "line 1 is not that of sample 0"),
        (lambda lines: [*lines[:3], lines[3].replace("odd", "even")], "line 4 is not that of sample 3"),
        (lambda lines: [*lines[:3], lines[3].replace("003", "000")], "line 4 is not that of sample 3"),
        (lambda lines: [line.replace('"of": 4', '"of": 2') for line in lines[:2]], "line 1 is not that"),
    ],
)
def test_what_is_missing_or_changed_in_a_record_is_found(pictures, tmp_path, change, message):
    url = pictures(*[(2, 2)] * 4)
    (tmp_path / "samples.jsonl").write_text("\n".join(sealed(of=4)) + "\n")
    (batch,) = picture_batches(url, LABELS, 4)
    assert (1, 1, 1, 1) == batch.conditions
    (tmp_path / "samples.jsonl").write_text("\n".join(change(sealed(of=4))) + "\n")
    with pytest.raises(UsageError, match=rf"samples\.jsonl is damaged: {message}"):
        list(picture_batches(url, LABELS, 4))


def test_pictures_that_the_record_does_not_name_are_counted(pictures, tmp_path, told):
    url = pictures((2, 2), (2, 2))
    (tmp_path / "samples.jsonl").write_text('{"file": "001.png", "index": 0, "condition": "odd"}\n')
    (batch,) = picture_batches(url, LABELS, 4)
    assert (1,) == batch.conditions
    assert any("1 pictures that" in line and line.strip().endswith(": 000.png") for line in told)


def test_pictures_that_cannot_be_judged_are_explained(pictures, tmp_path):
    assert () == Listing.of(str(tmp_path)).pictures
    with pytest.raises(UsageError, match="no pictures in"):
        list(picture_batches(str(tmp_path), LABELS, 4))
    url = pictures((2, 2), (2, 4))
    for size in (4, 1):
        with pytest.raises(UsageError, match=r"pictures of different sizes: .*001\.png is \[1, 2, 4\]"):
            list(picture_batches(url, LABELS, size))
    (tmp_path / "000.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"cannot read the picture .*000\.png"):
        list(picture_batches(url, LABELS, 4))
