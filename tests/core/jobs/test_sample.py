"""``sample_folder`` and ``sample_teacher``: files, conditions, and samples that do not depend on batches."""

import json
from unittest.mock import ANY

import attrs
import fsspec
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from dimo_core.choice import Choice
from dimo_core.conditions import Conditioning
from dimo_core.errors import CheckpointError, Interrupted, UnknownNameError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import FORMAT, WEIGHTS
from dimo_core.files.owner import owned
from dimo_core.files.prompts import Prompt, PromptSet
from dimo_core.guidance import Constant
from dimo_core.jobs import sample
from dimo_core.jobs.sample import sample_folder, sample_teacher
from dimo_core.jobs.sample_files import Wanted
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling
from dimo_core.sources import Conditions
from dimo_core.suggestions import ASSUMED, EvaluationPlan, Sampling
from dimo_core.testing.suggested import require_suggestions

LABELS = Conditioning(kind="label", classes=("even", "odd"))


def raw_conditions(conditioning, given, count, source=None):
    return Wanted.of(conditioning, source, given, count).raw


def card(name, **more):
    """A card that is whole, of a generator that the loader of a test makes."""
    sections = {"teacher": {"name": name}, "generator": {"name": name}, "frozen": {}, **more}
    return yaml.safe_dump({"format": FORMAT, **sections, "sha256": {WEIGHTS: ""}})


@pytest.fixture
def loaded(toy, monkeypatch, tmp_path_factory):
    """Replaces the loader; remembers its calls, and can be told to load tokens."""
    calls, here = [], tmp_path_factory.mktemp("generators")
    monkeypatch.chdir(here)
    for name in ("g", "other", "some/generator"):
        (here / name).mkdir(parents=True)
        (here / name / "generator.yaml").write_text(card(name))

    def load(path, device, *, temperature=None, steps=None):
        calls.append((path, str(device), temperature))
        generator = toy.Generator()
        if temperature is not None:
            generator.options = type(generator.options)(temperature=temperature)
        load.generators.append(generator)
        return load.teacher, generator

    load.teacher, load.calls, load.generators = toy.Teacher(), calls, []
    monkeypatch.setattr(sample, "load_generator", load)
    return load


def records(out):
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_a_picture_each_a_grid_and_a_line_each(loaded, tmp_path):
    out = tmp_path / "out"
    paths = sample_folder("some/generator", count=3, seed=5, out=str(out), device="cpu")
    names = ["00000.png", "00001.png", "00002.png", "grid.png", "samples.jsonl"]
    assert [str(out / name) for name in names] == paths
    assert names == sorted(path.name for path in out.iterdir())
    lines = records(out)
    assert [("00000.png", 0, "even", 5), ("00001.png", 1, "odd", 5), ("00002.png", 2, "even", 5)] == [
        (r["file"], r["index"], r["condition"], r["seed"]) for r in lines
    ]
    for line in lines:
        pixels = np.asarray(Image.open(out / line["file"])).flatten().tolist()
        assert [round(token / 5 * 255) for token in line["tokens"]] == pixels


@pytest.mark.parametrize(("count", "batch_size"), [(80, 7), (80, 500), (66, 13), (1, 1)])
def test_samples_depend_neither_on_batch_size_nor_on_count(loaded, tmp_path, count, batch_size):
    sample_folder("g", count=80, out=str(tmp_path / "whole"), device="cpu", batch_size=100)
    sample_folder("g", count=count, out=str(tmp_path / "part"), device="cpu", batch_size=batch_size)
    whole, part = (records(tmp_path / name) for name in ("whole", "part"))
    assert ({80}, {count}) == tuple({record["of"] for record in each} for each in (whole, part))
    own = {"of": ANY, "checksum": ANY}
    assert [record | own for record in whole[:count]] == part
    assert max(loaded.generators[1].batches) <= batch_size


def test_samples_of_all_blocks_differ(loaded, tmp_path):
    sample_folder("g", count=192, out=str(tmp_path / "out"), device="cpu")
    tokens = [record["tokens"] for record in records(tmp_path / "out")]
    assert tokens[:64] != tokens[64:128] != tokens[128:]


def test_another_seed_gives_other_samples(loaded, tmp_path):
    for seed in (0, 1):
        sample_folder("g", count=8, seed=seed, out=str(tmp_path / str(seed)), device="cpu")
    first, second = ([r["tokens"] for r in records(tmp_path / str(seed))] for seed in (0, 1))
    assert first != second


def test_the_log_of_a_batch_system_hinders_no_samples(loaded, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "slurm-1.out").write_text("log")
    sample_folder("g", count=1, out=str(tmp_path), device="cpu")
    assert 1 == len(records(tmp_path))


def test_samples_overwrite_nothing(loaded, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        sample_folder("g", count=1, out=str(tmp_path), device="cpu")
    assert ["precious.txt"] == [path.name for path in tmp_path.iterdir()]
    assert [] == loaded.calls


def test_two_commands_do_not_draw_into_one_folder(loaded, toy, way, tmp_path):
    with owned(str(tmp_path / "out")):
        with pytest.raises(UsageError, match="is being written to by process"):
            sample_folder("g", count=1, out=str(tmp_path / "out"), device="cpu")
        with pytest.raises(UsageError, match="is being written to by process"):
            sample_teacher(toy.Teacher(), way, count=1, out=str(tmp_path / "out"), device="cpu")
    assert [] == list(tmp_path.iterdir())


def test_where_no_generator_is_nothing_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"no generator in 'nowhere': neither generator\.yaml nor"):
        sample_folder("nowhere", out=str(tmp_path / "out"), device="cpu")
    assert [] == list(tmp_path.iterdir())


def test_tokens_become_lines(loaded, toy, tmp_path):
    loaded.teacher = toy.TokensTeacher()
    paths = sample_folder("g", count=3, out=str(tmp_path / "out"), device="cpu")
    assert ["samples.txt", "samples.jsonl"] == [path.rsplit("/", 1)[1] for path in paths]
    lines = (tmp_path / "out" / "samples.txt").read_text().splitlines()
    assert [" ".join(map(str, record["tokens"])) for record in records(tmp_path / "out")] == lines


def test_the_generator_of_a_run_folder_is_found_and_samples_lie_beside_it(loaded, tmp_path):
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "generator.yaml").write_text(card("g"))
    for path in (tmp_path, tmp_path / "generator"):
        sample_folder(str(path), count=1, device="cpu")
        assert str(tmp_path / "generator") == loaded.calls[-1][0]
        for file in (tmp_path / "drawn").iterdir():
            file.unlink()


def test_a_temperature_reaches_the_generator(loaded, tmp_path):
    sample_folder("g", count=1, temperature=0.5, out=str(tmp_path / "out"), device="cpu")
    assert [("g", "cpu", 0.5)] == loaded.calls


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, [0, 1, 0, 1, 0]), (["odd"], [1] * 5), (["1", "even"], [1, 0, 1, 0, 1]), ([], [0, 1, 0, 1, 0])],
)
def test_conditions_are_names_or_indices_in_turn_and_all_classes_by_default(given, expected):
    assert expected == raw_conditions(LABELS, given, 5)


def test_a_class_named_like_a_number_is_a_name():
    assert [1] == raw_conditions(Conditioning(kind="label", classes=("7", "0")), ["0"], 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("evn", "unknown class 'evn'. Known: even, odd; or an index from 0 to 1. Did you mean 'even'?"),
        ("2", "unknown class '2'. Known: even, odd; or an index from 0 to 1."),
        ("-1", "unknown class '-1'. Known: even, odd; or an index from 0 to 1."),
    ],
)
def test_an_unknown_class_is_answered_with_the_known_ones(given, message):
    with pytest.raises(UsageError) as error:
        raw_conditions(LABELS, [given], 1)
    assert message == str(error.value)


def test_many_classes_are_not_all_listed():
    many = Conditioning(kind="label", classes=tuple(f"class {i}" for i in range(1000)))
    with pytest.raises(UsageError) as error:
        raw_conditions(many, ["clas 17"], 1)
    expected = "unknown class 'clas 17'. Give a name or an index from 0 to 999. Did you mean 'class 17'?"
    assert expected == str(error.value)


def test_prompts_are_taken_as_they_are_and_must_be_given():
    text = Conditioning(kind="text")
    assert ["a cat", "a dog", "a cat"] == raw_conditions(text, ["a cat", "a dog"], 3)
    with pytest.raises(UsageError, match="takes text conditions"):
        raw_conditions(text, None, 3)


@attrs.frozen(kw_only=True)
class Pairs(Conditions):
    """Pairs of numbers, a kind of its own."""

    scale: int = 1

    def open(self, conditioning, *, seed):
        raise AssertionError("samples are drawn without a stream")

    def balanced(self, conditioning, count):
        return [[self.scale * i, 0] for i in range(count)]

    def parse(self, conditioning, given):
        return [[self.scale * int(number) for number in text.split(",")] for text in given]


class PairTeacher:
    conditioning = Conditioning(kind="pair")

    def recipes(self):
        return {"fast": {"conditions": {"name": "pairs", "scale": 5}}}

    def evaluation(self):
        return None


class PairRegistry:
    def load(self, kind, name):
        if name != "pairs":
            raise UnknownNameError(kind, name, ["pairs"])
        return Pairs


def test_conditions_of_their_own_kind_are_read_and_chosen_by_the_source_of_the_run(monkeypatch):
    monkeypatch.setattr(sample.Registry, "discover", PairRegistry)
    pair = PairTeacher.conditioning
    recorded = sample._source(PairTeacher(), {"conditions": {"name": "pairs", "scale": 10}})
    suggested = sample._source(PairTeacher())
    for source, scale in ((recorded, 10), (suggested, 5)):
        assert [[scale, scale * 2], [0, 0], [scale, scale * 2]] == raw_conditions(
            pair, ["1,2", "0,0"], 3, source
        )
        assert [[0, 0], [scale, 0]] == raw_conditions(pair, None, 2, source)
    with pytest.raises(UnknownNameError, match="unknown conditions 'lost'"):
        sample._source(PairTeacher(), {"conditions": {"name": "lost"}})


@pytest.mark.parametrize("section", [{"scale": 5}, {"name": "pairs", "scale": 5}])
def test_a_recipe_may_name_only_options_of_the_source_that_the_plan_names(monkeypatch, section):
    plan = EvaluationPlan(metrics=(), best="", conditions=Choice("pairs", {"scale": 2}))
    monkeypatch.setattr(sample.Registry, "discover", PairRegistry)
    monkeypatch.setattr(PairTeacher, "evaluation", lambda _: plan)
    monkeypatch.setattr(PairTeacher, "recipes", lambda _: {"fast": {"conditions": section}})
    assert 5 == sample._source(PairTeacher()).scale
    monkeypatch.setattr(PairTeacher, "recipes", lambda _: {"fast": {"conditions": None}})
    assert 2 == sample._source(PairTeacher()).scale


def test_labels_and_prompts_need_no_source(toy, monkeypatch):
    monkeypatch.setattr(sample.Registry, "discover", PairRegistry)
    source = sample._source(toy.Teacher(), {"conditions": {"name": "lost"}})
    assert source is None
    assert [1, 0] == raw_conditions(LABELS, ["odd", "even"], 2, source)


def test_torchs_own_generator_is_left_alone(loaded, tmp_path):
    before = torch.get_rng_state()
    sample_folder("g", count=2, out=str(tmp_path / "out"), device="cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def way(toy):
    return TeacherSampling(steps=3, sampler=toy.Sampler(), guidance=Constant(), name="slow")


def test_a_teachers_samples_lie_like_a_generators_and_tell_how_they_were_drawn(toy, way, tmp_path):
    out = tmp_path / "out"
    drawn = sample_teacher(toy.Teacher(), way, count=2, seed=5, out=str(out), device="cpu")
    names = ["00000.png", "00001.png", "grid.png", "samples.jsonl"]
    assert names == sorted(path.name for path in out.iterdir())
    facts = {
        "seed": 5,
        "sampling": "slow",
        "steps": 3,
        "sampler": {"class": "ToySampler", "greed": 0.5},
        "guidance": {"class": "Constant", "scale": 1.0},
        "passes": 6,
    }
    expected = [
        {
            **{"file": names[i], "index": i, "of": 2, "condition": ("even", "odd")[i]},
            **{**facts, "tokens": tokens, "checksum": ANY},
        }
        for i, tokens in enumerate(drawn.tokens.tolist())
    ]
    assert expected == records(out)
    assert (6, None) == (drawn.passes, drawn.images)


def test_without_a_folder_samples_are_only_returned(toy, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = sample_teacher(toy.TokensTeacher(), way, count=3, conditions=["odd"], device="cpu")
    assert ((3, 4), None) == (tuple(drawn.tokens.shape), drawn.images)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "batch_size"), [(70, 7), (70, 500), (66, 13), (1, 1)])
def test_a_teachers_samples_depend_neither_on_batch_size_nor_on_count(toy, way, count, batch_size):
    whole = sample_teacher(toy.Teacher(), way, count=70, device="cpu", batch_size=100)
    part = sample_teacher(toy.Teacher(), way, count=count, device="cpu", batch_size=batch_size)
    assert torch.equal(whole.tokens[:count], part.tokens)


def test_a_teachers_samples_overwrite_nothing(toy, way, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        sample_teacher(toy.Teacher(), way, count=1, out=str(tmp_path), device="cpu")


def test_a_teacher_without_samplings_is_sampled_as_its_evaluation_plan_says(toy, monkeypatch):
    registry = Registry.discover()
    assert max(ASSUMED.steps) == TeacherSampling.named(toy.Teacher(), None, registry).steps
    plan = attrs.evolve(ASSUMED, steps=(3, 5), sampler=Choice("random-order"), guidance=Choice("ramp"))
    monkeypatch.setattr(toy.Teacher, "evaluation", lambda _: plan)
    way = TeacherSampling.named(toy.Teacher(), None, registry)
    assert (5, "") == (way.steps, way.name)
    assert isinstance(way.sampler, registry.load("sampler", "random-order"))
    assert isinstance(way.guidance, registry.load("guidance", "ramp"))
    with pytest.raises(UsageError, match="names no samplings"):
        sample_teacher(toy.Teacher(), "mine", count=1, device="cpu")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": ""}, "the sampling 'mine' tells its source"),
        ({"sampler": Choice("maskgut")}, "sampling 'mine' can be built .*Did you mean 'maskgit'"),
        ({"guidance": Choice("ramp", {"weight": 2.0})}, "sampling 'mine' can be built .*weight"),
    ],
)
def test_the_conformance_check_names_samplings_that_cannot_be_used(tiny_teacher, changes, text):
    sampling = Sampling(steps=2, sampler=Choice("maskgit"), guidance=Choice("ramp"), source="test")
    teachers = [
        type("Named", (type(tiny_teacher),), {"samplings": lambda self, s=s: {"mine": s}})()
        for s in (sampling, attrs.evolve(sampling, **changes))
    ]
    require_suggestions(teachers[0])
    with pytest.raises(AssertionError, match=text):
        require_suggestions(teachers[1])


def test_passes_are_those_that_were_made(tiny_teacher):
    """The network counts how many samples it sees; with the ramp the first step has one pass, others two."""
    network, seen = tiny_teacher.network(), []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    teacher = type("Watched", (type(tiny_teacher),), {"network": lambda self: network})()
    sampling = Sampling(
        steps=300, sampler=Choice("maskgit"), guidance=Choice("ramp", {"scale": 2.0}), source="test"
    )
    drawn = sample_teacher(teacher, sampling, count=70, device="cpu")
    assert (7, 7 * 70) == (drawn.passes, sum(seen))


def tree_of(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture
def stopping(monkeypatch):
    """Makes the n-th written file of samples the last one: Ctrl-C comes before it."""

    def stop(after):
        left, write = [after], Folder.write

        def counted(self, name, data, **how):
            if name.endswith((".png", ".jpg", ".safetensors")):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            write(self, name, data, **how)

        monkeypatch.setattr(Folder, "write", counted)
        return lambda: monkeypatch.setattr(Folder, "write", write)

    return stop


PROMPTS = PromptSet(prompts=tuple(Prompt(text=t, number=0) for t in ("even", "odd", "even")), each=7)


@pytest.mark.parametrize("after", [0, 1, 5, 6, 11, 12, 13, 23, 24])
@pytest.mark.parametrize("what", ["pictures", "lines"])
def test_a_stopped_command_given_again_leaves_the_same_bytes(loaded, toy, tmp_path, stopping, what, after):
    """21 samples in batches of 5: 5 pictures and a record each; or 5 records only."""
    if what == "lines":
        loaded.teacher, after = toy.TokensTeacher(), after // 6
    options = {"conditions": PROMPTS, "seed": 3, "device": "cpu", "batch_size": 5}
    sample_folder("g", out=str(tmp_path / "whole"), **options)
    out = tmp_path / "out"
    resume = stopping(after)
    batches = after // 6 if what == "pictures" else after
    text = rf"stopped after {5 * batches} of 21 samples\. The same command with --out {out} draws"
    with pytest.raises(Interrupted, match=text):
        sample_folder("g", out=str(out), **options)
    resume()
    assert not (out / "samples.jsonl").exists()
    before = {name: (out / name).stat().st_mtime_ns for name in tree_of(out) if name.endswith(".png")}
    assert (5 * batches <= len(before)) or what == "lines"
    sample_folder("g", out=str(out), **options)
    assert tree_of(tmp_path / "whole") == tree_of(out)
    assert sum(loaded.generators[0].batches) - 5 * batches == sum(loaded.generators[-1].batches)
    complete = [f"{i:05d}.png" for i in range(5 * batches)] if what == "pictures" else []
    assert [before[name] for name in complete] == [(out / name).stat().st_mtime_ns for name in complete]


@pytest.mark.parametrize("harm", ["picture", "empty", "gone", "record"])
def test_what_was_damaged_meanwhile_is_drawn_or_written_again(loaded, tmp_path, stopping, harm):
    options = {"conditions": PROMPTS, "seed": 3, "device": "cpu", "batch_size": 5}
    sample_folder("g", out=str(tmp_path / "whole"), **options)
    out = tmp_path / "out"
    resume = stopping(13)
    with pytest.raises(Interrupted):
        sample_folder("g", out=str(out), **options)
    resume()
    record = next((out / "unfinished").rglob("00000000.safetensors"))
    if harm == "record":
        tensors = load_file(record)
        save_file({**tensors, "tokens": tensors["tokens"].flip(0)}, record)
    elif harm == "gone":
        (out / "00003.png").unlink()
    else:
        (out / "00003.png").write_bytes((out / "00004.png").read_bytes() if harm == "picture" else b"")
    sample_folder("g", out=str(out), **options)
    assert tree_of(tmp_path / "whole") == tree_of(out)
    assert 21 - 5 * (1 if harm == "record" else 2) == sum(loaded.generators[-1].batches)


@pytest.mark.parametrize("change", [('"seed": 3', '"seed": 4'), ('"samples": 21,', "")])
def test_a_request_that_was_damaged_is_refused(loaded, tmp_path, stopping, change):
    options = {"conditions": PROMPTS, "seed": 3, "device": "cpu", "batch_size": 5}
    resume = stopping(13)
    with pytest.raises(Interrupted):
        sample_folder("g", out=str(tmp_path / "out"), **options)
    resume()
    request = tmp_path / "out" / "unfinished" / "request.json"
    assert change[0] in request.read_text()
    request.write_text(request.read_text().replace(*change))
    with pytest.raises(CheckpointError, match=r"request\.json is damaged.*another --out"):
        sample_folder("g", out=str(tmp_path / "out"), **options)


def test_a_teachers_samples_go_on_too_in_any_place_and_layout(toy, way, stopping):
    """JPEGs would not give the grid back, and a store cannot append."""
    fs = fsspec.filesystem("memory")
    prompts = tuple(Prompt(text=t, style="anime", number=i) for i, t in enumerate(["even", "odd", "odd"]))
    options = {
        "conditions": PromptSet(prompts=prompts, layout="hpsv2"),
        "device": "cpu",
        "batch_size": 1,
    }
    try:
        whole = sample_teacher(toy.Teacher(), way, out="memory://drawn/whole", **options)
        resume = stopping(3)
        with pytest.raises(Interrupted, match="stopped after 1 of 3 samples"):
            sample_teacher(toy.Teacher(), way, out="memory://drawn/out", **options)
        resume()
        again = sample_teacher(toy.Teacher(), way, out="memory://drawn/out", **options)
        assert torch.equal(whole.tokens, again.tokens)
        found = [
            {name.removeprefix(f"/drawn/{place}/"): fs.cat_file(name) for name in fs.find(f"/drawn/{place}")}
            for place in ("whole", "out")
        ]
        assert {"anime/00000.jpg", "grid.png", "samples.jsonl"} < set(found[0])
        assert found[0] == found[1]
    finally:
        fs.rm("/drawn", recursive=True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"count": 9}, "conditions, samples"),
        ({"conditions": ["odd"]}, "conditions"),
    ],
)
def test_the_rest_of_other_samples_is_not_drawn(loaded, tmp_path, stopping, changed, named):
    options = {"count": 8, "seed": 3, "device": "cpu", "batch_size": 5, "out": str(tmp_path / "out")}
    resume = stopping(7)
    with pytest.raises(Interrupted):
        sample_folder("g", **options)
    resume()
    before = tree_of(tmp_path / "out")
    with pytest.raises(UsageError, match=rf"a part of other samples .* differ in {named}\. Give the options"):
        sample_folder("g", **{**options, **changed})
    assert before == tree_of(tmp_path / "out")


def test_the_rest_is_not_drawn_from_another_generator_or_teacher(loaded, toy, way, tmp_path, stopping):
    out = str(tmp_path / "out")
    resume = stopping(1)
    with pytest.raises(Interrupted):
        sample_folder("g", count=8, device="cpu", out=out)
    resume()
    with pytest.raises(UsageError, match="differ in model"):
        sample_folder("other", count=8, device="cpu", out=out)
    with pytest.raises(UsageError, match="differ in guidance, model, sampler, sampling, steps"):
        sample_teacher(toy.Teacher(), way, count=8, device="cpu", out=out)


def test_a_picture_that_was_taken_away_is_made_again_from_its_tokens(loaded, tmp_path, stopping):
    options = {"count": 20, "device": "cpu", "batch_size": 5}
    sample_folder("g", out=str(tmp_path / "whole"), **options)
    resume = stopping(14)
    with pytest.raises(Interrupted, match="stopped after 10"):
        sample_folder("g", out=str(tmp_path / "out"), **options)
    resume()
    (tmp_path / "out" / "00007.png").unlink()
    sample_folder("g", out=str(tmp_path / "out"), **options)
    assert tree_of(tmp_path / "whole") == tree_of(tmp_path / "out")
    assert 10 == sum(loaded.generators[-1].batches)
