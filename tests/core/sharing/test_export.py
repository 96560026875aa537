"""An export as a folder: graph, noise and loader give what the generator gives, and say no more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

from dimo_core.cli import main
from dimo_core.draws import Draws, categorical
from dimo_core.errors import NumericalError, UsageError
from dimo_core.evaluation.table import Row, Table
from dimo_core.files.folder import Folder
from dimo_core.method.one_step import OneStep
from dimo_core.sharing import load
from dimo_core.sharing.facts import Known, Run, pieces_of
from dimo_core.sharing.folder import Export
from dimo_core.sharing.impersonal import impersonal
from dimo_core.sharing.noise import GivenDraws, HeardDraws
from dimo_core.sharing.tracing import traced

SEED, COUNT = 5, 70


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def tiny_export(tiny_teacher, tmp_path_factory, kept):
    """A folder that holds a generator of the tiny teacher, which is made once, and what it was made of."""
    if not kept:
        kept["folder"], kept["export"] = written(tiny_teacher, tmp_path_factory.mktemp("exports"))
    return kept["folder"], kept["export"]


def written(teacher, place):
    generator = OneStep(temperature=0.8, top_k=4).build(teacher).eval()
    known = Known.of(teacher, [0, 1], complete=True)
    row = Row(name="generator | 1", kind="generator", samples=9, metrics={"fid": 1.25})
    protocol = {"seed": 0, "reference": "/home/somebody/digits"}
    run = Run(config={"objective": {"name": "dimo"}}, table=Table(rows=(row,), protocol=protocol))
    export = Export(
        teacher=teacher,
        generator=generator,
        traced=traced(teacher, generator, known.first(3)),
        known=known,
        config={"teacher": {"name": "tiny", "checkpoint": "/home/somebody/tiny"}, "generator": {"name": "o"}},
        run=run,
        licence="CC-BY-4.0",
    )
    export.write(Folder(str(place / "out")), "folder")
    return place / "out", export


def drawn(export, seed, count):
    """As `dimo sample` draws them."""
    tokens = []
    for start in range(0, count, 64):
        size = min(64, count - start)
        draws = Draws(seed=seed, step=start // 64, phase="sample", total=64).slice(0, size)
        c = torch.arange(start, start + size) % 2
        tokens.append(export.generator.sample(c, draws))
    return torch.cat(tokens)


def test_the_loader_draws_what_dimo_draws(tiny_export):
    folder, export = tiny_export
    found = load.Model(folder).sample(count=COUNT, seed=SEED)
    assert torch.equal(drawn(export, SEED, COUNT), found.tokens)
    assert (None, None) == (found.images, found.texts)
    other = load.Model(folder).sample(count=COUNT, seed=SEED + 1)
    assert not torch.equal(found.tokens, other.tokens)


def test_conditions_are_taken_by_name_and_in_turn(tiny_export):
    model = load.Model(tiny_export[0])
    same = model.run({"condition": torch.tensor([1, 0, 1])}, seed=SEED)
    assert torch.equal(same.tokens, model.sample(["b", "a"], count=3, seed=SEED).tokens)
    assert 2 == len(model.sample(seed=SEED).tokens)
    with pytest.raises(
        ValueError, match=r"unknown condition 'c'; this folder has the tensors of: \['a', 'b'\]"
    ):
        model.sample(["c"])


@pytest.mark.slow
def test_the_loader_needs_no_dimo(tiny_export, tmp_path):
    folder, export = tiny_export
    hidden = ["dimo_core", "attrs", "attr", "fsspec", "jaxtyping", "loguru", "PIL", "yaml", "jinja2"]
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden}));"
        f"sys.argv = ['load.py', '--count', '4', '--seed', '{SEED}', '--out', 'lines'];"
        f"runpy.run_path({str(folder / 'load.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (0, "4 samples in lines\n") == (done.returncode, done.stdout), done.stderr
    lines = (tmp_path / "lines" / "samples.txt").read_text().splitlines()
    assert [repr(" ".join(map(str, row))) for row in drawn(export, SEED, 4).tolist()] == lines


def test_no_file_names_a_place_on_this_machine(tiny_export):
    folder, _ = tiny_export
    places = [
        str(folder.parent),
        os.getcwd(),
        str(Path.home()),
        "/home/somebody",
        str(Path(torch.__file__).parents[2]),
    ]
    found = [
        (path.name, place)
        for path in folder.iterdir()
        for place in places
        if len(place) > 1 and place.encode() in path.read_bytes()
    ]
    assert [] == found
    assert "checkpoint: tiny" in (folder / "generator.yaml").read_text()


def test_the_model_card_says_what_is_known(tiny_export):
    text = (tiny_export[0] / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert "The weights are licensed under CC-BY-4.0." in text
    assert "| generator \\| 1 |" in text
    assert "1.25" in text
    assert "reference: digits" in text
    assert "| `x_init.codes` | int64 | [3, 4] | integers, uniform on 0 .. 4 |" in text
    assert "The conditions are the 2 classes of the teacher" in text
    assert "| teacher `tiny` | not said: ask whoever made it |" in text
    facts = json.loads((tiny_export[0] / "export.json").read_text())
    assert {*facts["sha256"]} | {"README.md", "export.json"} == {p.name for p in tiny_export[0].iterdir()}
    assert all(f"| `{name}` | " in text and digest in text for name, digest in facts["sha256"].items())


@pytest.mark.parametrize("name", ["graph.json", "generator.safetensors"])
def test_the_loader_refuses_a_file_that_changed(tiny_export, tmp_path, name):
    for path in tiny_export[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} is damaged or another file"):
        load.Model(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load.Model(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--conditions", "banana"], 2, "--conditions: unknown condition 'banana'; this folder has"),
        (["--count", "-1"], 2, "--count is -1; from 1 to "),
        (["--count", "x"], 2, "argument --count: invalid int value: 'x'"),
        (["--seed", "-4"], 2, "--seed is -4; from 0 to 9223372036854775807 is allowed"),
        (["--device", "banana"], 2, "--device banana cannot be used here: "),
        (["--device", "xpu"], 2, "--device xpu cannot be used here: "),
        (["--out", "taken"], 2, "--out taken cannot be written: "),
        ([], 1, "generator.safetensors is damaged or another file (SHA-256 "),
    ],
)
def test_the_loader_tells_what_is_wrong_in_one_line(
    tiny_export, tmp_path, monkeypatch, capsys, arguments, code, told
):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_export[0], folder)
    if not arguments:
        (folder / "generator.safetensors").write_bytes(b"x")
    (tmp_path / "taken").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "__file__", str(folder / "load.py"))
    with pytest.raises(SystemExit) as ended:
        load.main(arguments)
    line = capsys.readouterr().err
    assert (code, 1) == (ended.value.code, line.count("\n"))
    assert told in line
    assert {"copy", "taken"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "operation",
    [
        "os.system.default",
        "aten.from_file.default",
        "aten.save.default",
        "aten.__class__.x",
        "prim.Print.default",
    ],
)
def test_the_loader_calls_nothing_but_harmless_operations_of_aten(operation):
    data = {"nodes": [["x", operation, [], {}, []]], "inputs": [], "outputs": ["x"]}
    with pytest.raises((ValueError, AttributeError)):
        load.Graph(data, {}, torch.device("cpu"))


def test_a_graph_hands_over_types_of_torch_and_nothing_else():
    def graph(name):
        node = ["x", "aten.zeros.default", [[2]], {"dtype": {"torch": name}}, []]
        return load.Graph({"nodes": [node], "inputs": [], "outputs": ["x"]}, {}, torch.device("cpu"))

    assert torch.float64 == graph("float64").run([])[0].dtype
    with pytest.raises(Exception, match="load"):
        graph("load").run([])


@pytest.mark.parametrize("shape", [(), (4,), (3, 1500)])
@pytest.mark.parametrize("kind", ["uniform", "normal", "integers"])
def test_noise_of_the_loader_is_that_of_dimo(tiny_export, kind, shape):
    stream = {"phase": "sample", "stream": "eps", "kind": kind, "shape": list(shape), "high": 7}
    places = [0, 5, 63, 64, 130]
    found = load.Model(tiny_export[0])._noise(stream, places, 3)
    for place, row in zip(places, found, strict=True):
        draws = Draws(seed=3, step=place // 64, phase="sample", total=64)
        more = (7,) if kind == "integers" else ()
        assert torch.equal(getattr(draws, kind)("eps", *more, *shape)[place % 64], row)


def test_draws_that_are_given_are_those_that_were_heard():
    of = Draws(seed=1, phase="sample", total=8)
    heard = HeardDraws.listening(of)

    def use(draws):
        later = attrs.evolve(draws, phase=f"{draws.phase}/1")
        return (
            draws.integers("codes", 9, 4),
            draws.slice(2, 3).normal("eps", 2),
            draws.subset("masked", 4, torch.full((8,), 2)),
            later.gumbel("noise", 4),
        )

    for expected, found in zip(use(of), use(heard), strict=True):
        assert torch.equal(expected, found)
    assert ["codes", "eps", "masked", "1.noise"] == [*heard.streams]
    zeros = {name: torch.zeros_like(value) for name, value in heard.values.items()}
    given = GivenDraws(seed=1, phase="sample", total=8, of=of, streams=dict(heard.streams), values=zeros)
    assert 0 == int(use(given)[0].sum())
    with pytest.raises(UsageError, match="'other' was not asked for before"):
        given.uniform("other", 2)


def test_a_generator_that_depends_on_what_was_drawn_is_refused_in_one_line(tiny_teacher):
    class Wandering(type(OneStep().build(tiny_teacher))):
        def sample(self, c, draws):
            x = super().sample(c, draws)
            return x + 1 if int(x.sum()) % 2 else x

    generator = Wandering(OneStep(), tiny_teacher.tokens, tiny_teacher.network()).eval()
    with pytest.raises(
        UsageError, match=r"^Wandering with the teacher TinyTeacher cannot be exported: [^\n]+$"
    ):
        traced(tiny_teacher, generator, torch.tensor([0, 1]))


def test_another_result_is_told(tiny_export):
    own = tiny_export[1].traced
    assert 0 == own.check(list(own.outputs.values()), "the same")
    with pytest.raises(NumericalError, match="another gives other tokens than the generator"):
        own.check([own.outputs["tokens"] + 1], "another")


def test_the_number_below_another_is_what_draws_end_at():
    for dtype in (torch.float32, torch.float64):
        totals = torch.cat(
            [torch.linspace(0.5, 2, 4001, dtype=dtype), torch.tensor([0.5, 1.0, 1 - 1e-7]).to(dtype)]
        )
        below = totals * (1 - torch.finfo(dtype).eps / 2)
        assert torch.equal(torch.nextafter(totals, torch.zeros_like(totals)), below)
    last = categorical(torch.zeros(1, 7), torch.tensor([1.0]))
    assert [6] == last.tolist()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/me/teacher/", "teacher"),
        ("~/teacher", "teacher"),
        ("file:///data/x.tar", "x.tar"),
        ("C:\\Users\\me\\x", "x"),
        ("hf://me/x", "hf://me/x"),
        ("s3://key:secret@host/x", "s3://***@host/x"),
        ("embedded in dimo_maskgit", "embedded in dimo_maskgit"),
        ("a / b", "a / b"),
        (3, 3),
        (None, None),
    ],
)
def test_paths_of_a_machine_become_their_last_part(given, kept):
    assert {"a": [kept]} == impersonal({"a": [given]})


def test_pieces_are_written_where_texts_are_made_of_them(tiny_teacher):
    space = attrs.evolve(tiny_teacher.tokens, modality="text")

    class Speaking(type(tiny_teacher)):
        tokens = space
        joined = ""

        def texts(self, x, c):
            return tuple(self.joined.join("abcde"[code] for code in row) for row in x.tolist())

    x, c = torch.tensor([[0, 1, 2, 4]]), torch.tensor([0])
    assert list("abcde") == pieces_of(Speaking(), x, c)
    spaced = Speaking()
    type(spaced).joined = " "
    assert pieces_of(spaced, x, c) is None
    assert pieces_of(tiny_teacher, x, c) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "say in which form"),
        (["--merge", "--format", "onnx"], "say in which form"),
        (["--merge", "--steps", "2"], "--steps goes with --format"),
        (["--format", "gguf"], "invalid choice: 'gguf'"),
        (["--format", "folder", "--batch-size", "0"], "invalid positive value"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(arguments, named, capsys):
    assert 2 == main(["export", "nowhere", *arguments])
    assert named in capsys.readouterr().err
