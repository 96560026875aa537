"""A comparison: rows repeat, can be shared out and interrupted, and use only what belongs to them."""

import gc
import json
import weakref

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dimo_core.choice import Choice
from dimo_core.errors import CheckpointError, MissingLibraryError, NumericalError, UsageError
from dimo_core.evaluation import drawing as drawing_module
from dimo_core.evaluation.comparison import Comparison
from dimo_core.evaluation.drawing import Method, Opened, Shard
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.protocols import Protocol, digest
from dimo_core.evaluation.store import Store
from dimo_core.files.folder import Folder
from dimo_core.report.comparison_table import _grid
from dimo_core.sampler import Sampled
from dimo_core.teacher import Preview

SAMPLES, BATCH, BLOCK = 30, 4, 10
BATCHES = 9  # of 4, 4 and 2 samples in each of three blocks


@pytest.fixture
def world(toy, tmp_path):
    """Makes comparisons of toy generators, and counts the batches that they draw."""

    class World:
        plan = attrs.evolve(toy.plan, metrics=(Choice("variety"), Choice("brightness")))

        def __init__(self):
            self.stop_at = None
            self.drawn = 0

        def comparison(self, name="out", *, plan=None, changes=None, streamed=False, **options):
            protocol = Protocol.resolve(
                plan or self.plan, changes={"samples": SAMPLES, "block": BLOCK, **(changes or {})}
            )
            judge = Judge.resolve(toy.Teacher(), protocol, toy.Registry(), batch_size=8)
            return Comparison(
                **{
                    "teacher": toy.Teacher(),
                    "protocol": protocol,
                    "judge": judge,
                    "conditions": toy.Conditions(),
                    "store": Store(Folder(str(tmp_path / name)), streamed),
                    "device": torch.device("cpu"),
                    "batch_size": BATCH,
                    **options,
                }
            )

        def method(self, name="a"):
            def draw(c, draws):
                if draws.phase == "evaluation":
                    if self.drawn == self.stop_at:
                        raise KeyboardInterrupt
                    self.drawn += 1
                return Sampled(tokens=generator.sample(c, draws), passes=1)

            generator = toy.Generator()
            return Method(
                name=name,
                kind="generator",
                series=name,
                steps=1,
                identity={"generator": name},
                open=lambda: Opened(draw=draw, network=generator),
            )

    return World()


def numbers(found):
    return [
        [{k: cell[k] for k in ("metrics", "samples", "passes", "shown")} for cell in row] for row in found
    ]


def tokens(store, request, comparison):
    """The tokens of all finished batches of a row, in order."""
    raw = comparison.conditions.balanced(comparison.teacher.conditioning, SAMPLES)
    starts = [b + i for b in range(0, SAMPLES, BLOCK) for i in range(0, BLOCK, BATCH)]
    ends = [min(s + BATCH, (s // BLOCK + 1) * BLOCK) for s in starts]
    batches = [store.batch(request, s, tuple(raw[s:e])) for s, e in zip(starts, ends, strict=True)]
    return torch.cat([batch.samples.tokens for batch in batches])


def test_evaluating_twice_gives_the_same_numbers_to_the_last_bit(world):
    first, second = (world.comparison(name).run([world.method()]) for name in ("one", "two"))
    assert 2 * BATCHES == world.drawn
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_give_the_same_tokens_and_numbers_as_one_process(world, count):
    whole = world.comparison("whole").run([world.method()])
    for index in reversed(range(1, count + 1)):
        shard = world.comparison("shared", shard=Shard(index=index, of=count))
        assert shard.run([world.method()]) is None
    assert 2 * BATCHES == world.drawn
    join = world.comparison("shared")
    request = join._request(join.begin(), world.method(), 0)
    found = tokens(join.store, request, join)
    alone = world.comparison("alone", shard=Shard(index=1, of=1))
    alone.run([world.method()])
    assert torch.equal(found, tokens(alone.store, request, alone))
    assert numbers(whole) == numbers(join.run([world.method()]))
    assert 3 * BATCHES == world.drawn


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shards_divide_the_batches(count):
    parts = [list(Shard(index=i, of=count).among(5)) for i in range(1, count + 1)]
    assert [0, 1, 2, 3, 4] == [place for part in parts for place in part]


@pytest.mark.parametrize("stop", [0, 2, BATCHES, BATCHES + 5])
def test_an_interrupted_comparison_goes_on_where_it_was(world, stop):
    methods = [world.method("a"), world.method("b")]
    whole = world.comparison("whole").run(methods)
    world.drawn, world.stop_at = 0, stop
    with pytest.raises(KeyboardInterrupt):
        world.comparison("stopped").run(methods)
    world.stop_at = None
    assert numbers(whole) == numbers(world.comparison("stopped").run(methods))
    assert 2 * BATCHES == world.drawn


def test_a_finished_row_is_not_drawn_again_and_leaves_no_batches(world, tmp_path):
    first = world.comparison().run([world.method()])
    assert first == world.comparison().run([world.method()])
    assert BATCHES == world.drawn
    assert not (tmp_path / "out" / "batches").exists()


def test_rows_can_be_added(world):
    world.comparison().run([world.method("a")])
    world.comparison().run([world.method("a"), world.method("b")])
    assert 2 * BATCHES == world.drawn


@pytest.mark.parametrize(
    "change", [{"batch_size": 5}, {"changes": {"seeds": (1,), "samples": SAMPLES}, "name": "other"}]
)
def test_what_was_drawn_otherwise_is_not_used(world, change):
    world.comparison().run([world.method()])
    before, world.drawn = world.drawn, 0
    world.comparison(**change).run([world.method()])
    assert before > 0
    assert world.drawn > 0


@pytest.mark.parametrize("harm", [b"", b"not safetensors", None, "flipped", "facts"])
def test_a_damaged_batch_is_drawn_again(world, tmp_path, harm):
    whole = world.comparison("whole").run([world.method()])
    world.drawn, world.stop_at = 0, 6
    with pytest.raises(KeyboardInterrupt):
        world.comparison().run([world.method()])
    parts = sorted((tmp_path / "out" / "batches").rglob("*.safetensors"))
    if harm == "facts":
        save_file({name: t for name, t in load_file(parts[1]).items() if name != "facts"}, parts[1])
    elif harm == "flipped":
        tensors = load_file(parts[1])
        save_file({**tensors, "tokens": 4 - tensors["tokens"]}, parts[1])
    else:
        parts[1].write_bytes(parts[2].read_bytes()[:-3] if harm is None else harm)
    world.stop_at = None
    assert numbers(whole) == numbers(world.comparison().run([world.method()]))
    assert BATCHES + 1 == world.drawn


def test_a_batch_of_another_request_is_not_used(world, tmp_path):
    whole = world.comparison("whole").run([world.method("b")])
    for name in ("a", "b"):
        world.comparison(shard=Shard(index=1, of=1)).run([world.method(name)])
    a, b = sorted((tmp_path / "out" / "batches").iterdir())
    for first, second in zip(sorted(a.iterdir()), sorted(b.iterdir()), strict=True):
        first.write_bytes(second.read_bytes())
    world.drawn = 0
    found = world.comparison().run([world.method("a"), world.method("b")])
    assert (BATCHES, numbers(whole)[0]) == (world.drawn, numbers(found)[1])


@pytest.mark.parametrize("harm", ["request", "digit", "line"])
def test_a_damaged_row_is_computed_again(world, tmp_path, harm):
    first = world.comparison().run([world.method()])
    (row,) = (tmp_path / "out" / "rows").iterdir()
    text = row.read_text()
    lines = [line for line in text.splitlines() if '"missing"' not in line]
    changed = {
        "request": text.replace('"generator": "a"', '"generator": "x"'),
        "digit": text.replace("0.", "1.", 1),
        "line": "\n".join(lines),
    }
    assert changed[harm] != text
    row.write_text(changed[harm])
    assert numbers(first) == numbers(world.comparison().run([world.method()]))
    assert 2 * BATCHES == world.drawn


def test_a_folder_of_another_protocol_is_refused_and_the_difference_is_named(world):
    world.comparison().run([world.method()])
    with pytest.raises(
        UsageError, match=r"they differ in samples \(30 \| 20\); split \(held-out \| other\)\."
    ):
        world.comparison(changes={"samples": 20, "split": "other"}).run([world.method()])


def test_a_row_with_a_missing_metric_is_judged_again_without_being_drawn_again(world, toy):
    broken = world.comparison()
    metric = broken.judge.metrics["variety"]

    class Missing(type(metric)):
        def compute(self, samples, reference, teacher):
            raise MissingLibraryError("no library today")

    broken.judge.metrics = {**broken.judge.metrics, "variety": Missing()}
    first = broken.run([world.method()])
    second = world.comparison().run([world.method()])
    assert (["variety"], [], BATCHES) == (first[0][0]["missing"], second[0][0]["missing"], world.drawn)
    assert {"variety", "brightness"} == set(second[0][0]["metrics"])


def test_nothing_is_written_of_streamed_rows_but_their_numbers(world, tmp_path):
    world.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        world.comparison(streamed=True).run([world.method()])
    assert not (tmp_path / "out" / "batches").exists()
    world.stop_at = None
    whole = world.comparison("whole").run([world.method()])
    assert numbers(whole) == numbers(world.comparison(streamed=True).run([world.method()]))


def test_samples_are_kept_and_made_up_for_when_a_batch_was_there_without_them(world, tmp_path):
    world.comparison("whole", keep=str(tmp_path / "kept")).run([world.method("a, T = 1")])
    world.stop_at = world.drawn + 3
    with pytest.raises(KeyboardInterrupt):
        world.comparison().run([world.method("a, T = 1")])
    world.stop_at = None
    world.comparison(keep=str(tmp_path / "late")).run([world.method("a, T = 1")])
    one, two = (sorted((tmp_path / name / "a-T-=-1").iterdir()) for name in ("kept", "late"))
    assert SAMPLES == len(one)
    assert [(p.name, p.read_bytes()) for p in one] == [(p.name, p.read_bytes()) for p in two]


@pytest.mark.parametrize("change", [{"seeds": (1,)}, {"samples": 20}])
def test_samples_of_different_rows_are_not_mixed_in_one_folder(world, tmp_path, change):
    kept = str(tmp_path / "kept")
    world.comparison("one", keep=kept).run([world.method()])
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept" / "a").iterdir()}
    drawn = world.drawn
    with pytest.raises(UsageError, match="holds samples that were drawn otherwise"):
        world.comparison("two", keep=kept, changes=change).run([world.method()])
    assert drawn == world.drawn
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "kept" / "a").iterdir()}
    world.comparison("three", keep=kept, changes={"metrics": ["variety"]}).run([world.method()])


@pytest.mark.parametrize("stop", [4, None])
def test_weights_that_arrive_later_complete_what_was_drawn_without_them(world, monkeypatch, stop):
    whole = world.comparison("whole").run([world.method()])
    world.drawn, world.stop_at = 0, stop
    features = type(world.comparison("x").judge.features)

    def missing(self, *_):
        raise CheckpointError("no weights here")

    with monkeypatch.context() as lacking:
        lacking.setattr(features, "fingerprint", property(missing))
        lacking.setattr(features, "extract", missing)
        without = world.comparison()
        if stop is None:
            assert ["brightness"] == without.run([world.method()])[0][0]["missing"]
            assert without.floor()["missing"] == ["brightness"]
        else:
            with pytest.raises(KeyboardInterrupt):
                without.run([world.method()])
    world.stop_at = None
    found = world.comparison()
    assert numbers(whole) == numbers(found.run([world.method()]))
    assert (BATCHES, "abc123") == (world.drawn, found.facts["fingerprint"])
    assert not found.floor()["missing"]
    with monkeypatch.context() as other:
        other.setattr(features, "fingerprint", "def456")
        with pytest.raises(UsageError, match=r"they differ in fingerprint \(abc123 \| def456\)"):
            world.comparison().run([world.method()])


def test_a_library_that_arrives_later_completes_what_was_drawn_without_it(world, monkeypatch):
    whole = world.comparison("whole").run([world.method()])
    world.drawn = 0

    def missing(self, images):
        raise MissingLibraryError("no library today")

    with monkeypatch.context() as lacking:
        lacking.setattr(type(world.comparison("x").judge.features), "extract", missing)
        for metric in world.comparison("x").judge.metrics.values():
            lacking.setattr(type(metric), "needs", frozenset({"features", "tokens"}))
        assert ["brightness"] == world.comparison().run([world.method()])[0][0]["missing"]
    for metric in world.comparison("x").judge.metrics.values():
        monkeypatch.setattr(type(metric), "needs", frozenset({"features", "tokens"}))
    assert numbers(whole) == numbers(world.comparison().run([world.method()]))
    assert BATCHES == world.drawn


@pytest.mark.parametrize("stop", [4, None])
def test_what_metrics_observe_is_kept_with_the_batches(world, monkeypatch, stop):
    looks = []
    for metric in world.comparison("x").judge.metrics.values():
        if "brightness" in metric.better:
            kind = type(metric)

    def observe(self, samples, teacher):
        looks.append(len(samples))
        return {"shade": samples.images.float().mean((1, 2, 3))}

    monkeypatch.setattr(kind, "needs", frozenset())
    monkeypatch.setattr(kind, "observes", frozenset({"shade"}))
    monkeypatch.setattr(kind, "observe", observe)
    monkeypatch.setattr(
        kind, "compute", lambda _s, x, _r, _t: {"brightness": x.observed["shade"].mean().item()}
    )
    whole = world.comparison("whole").run([world.method()])
    assert SAMPLES == sum(looks)
    looks.clear()
    world.drawn, world.stop_at = 0, stop
    if stop is None:
        assert world.comparison(shard=Shard(index=1, of=1)).run([world.method()]) is None
    else:
        with pytest.raises(KeyboardInterrupt):
            world.comparison().run([world.method()])
    world.stop_at = None
    assert numbers(whole) == numbers(world.comparison().run([world.method()]))
    assert SAMPLES == sum(looks)


def test_pictures_are_judged_where_nothing_can_be_drawn(world, toy, monkeypatch):
    def refused(self, conditioning, count):
        raise UsageError("no prompts")

    monkeypatch.setattr(toy.Conditions, "balanced", refused)
    assert [] == world.comparison().run([])
    assert "prompts" not in world.comparison().facts


def test_other_prompts_or_files_of_metrics_are_another_protocol(world, toy, monkeypatch):
    before = world.comparison().begin()
    monkeypatch.setattr(
        toy.Conditions, "balanced", lambda self, conditioning, count: [f"a {i % 2}" for i in range(count)]
    )
    prompts = world.comparison("prompts").facts
    assert before != digest(prompts)
    metric = type(world.comparison("x").judge.metrics["variety"])
    monkeypatch.setattr(metric, "fingerprint", "1" * 64)
    one = world.comparison("files").begin()
    monkeypatch.setattr(metric, "fingerprint", "2" * 64)
    assert one != digest(world.comparison("x").facts)
    with pytest.raises(UsageError, match=r"they differ in files\.variety \(1+ \| 2+\)"):
        world.comparison("files").begin()


def test_seeds_are_drawn_one_by_one(world):
    (row,) = world.comparison(changes={"seeds": (0, 5)}).run([world.method()])
    (other,) = world.comparison("five", changes={"seeds": (5,)}).run([world.method()])
    assert row[0]["metrics"] != row[1]["metrics"]
    assert other[0]["metrics"] == row[1]["metrics"]
    assert row[1]["shown"] is None


@pytest.mark.parametrize("needed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_images_are_kept_only_where_a_metric_looks_at_them(world, toy, monkeypatch, needed):
    alive, most = weakref.WeakSet(), [0]
    to_uint8 = drawing_module.to_uint8

    def tracked(images):
        made = to_uint8(images)
        alive.add(made)
        gc.collect()
        most[0] = max(most[0], len(alive))
        return made

    monkeypatch.setattr(drawing_module, "to_uint8", tracked)
    comparison = world.comparison()
    needs = frozenset({"images"}) if needed else frozenset({"features", "tokens"})
    for metric in comparison.judge.metrics.values():
        monkeypatch.setattr(type(metric), "needs", needs)
    comparison.run([world.method()])
    assert (most[0] >= BATCHES) if needed else (most[0] <= 3)


def test_metrics_that_look_at_images_get_them_from_finished_batches_too(world, monkeypatch):
    comparison = world.comparison()
    for metric in comparison.judge.metrics.values():
        monkeypatch.setattr(type(metric), "needs", frozenset({"images"}))
    world.comparison(shard=Shard(index=1, of=1)).run([world.method()])
    seen = []
    judged = comparison.judge.judged
    monkeypatch.setattr(
        type(comparison.judge), "judged", lambda self, samples: seen.append(samples) or judged(samples)
    )
    comparison.run([world.method()])
    assert (SAMPLES, 1, 2, 2) == tuple(seen[0].images.shape)
    assert BATCHES == world.drawn


def test_the_floor_is_judged_once(world, monkeypatch):
    first = world.comparison().floor()
    assert 30 == first["samples"]
    monkeypatch.setattr(Judge, "floor", property(lambda self: pytest.fail("judged again")))
    assert first == world.comparison().floor()


def test_rows_are_plain_json(world, tmp_path):
    found = world.comparison(intervals=10).run([world.method()])
    (path,) = (tmp_path / "out" / "rows").iterdir()
    assert json.loads(json.dumps(found[0][0])) == json.loads(path.read_text())["row"]
    assert {"variety", "brightness"} == set(found[0][0]["intervals"])


def test_intervals_of_too_few_samples_are_not_made_up(world):
    comparison = world.comparison(intervals=10, changes={"samples": 8})
    found = comparison.run([world.method()])
    assert {} == found[0][0]["intervals"]
    assert (8, 4) == (found[0][0]["samples"], found[0][0]["width"])  # of which the table makes a note


def test_a_row_names_every_machine_that_drew_a_part_of_it(world, monkeypatch):
    other = {"device": "cpu (elsewhere, 9 threads)"}
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Comparison, "machine", property(lambda self: other))
        world.comparison(shard=Shard(index=1, of=2)).run([world.method()])
    here = world.comparison()
    ((row,),) = here.run([world.method()])
    assert [other, here.machine] == row["machines"]


def test_a_network_whose_weights_are_not_finite_is_refused(world):
    method = world.method()
    broken = nn.Linear(2, 2)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    bad = attrs.evolve(method, open=lambda: Opened(draw=method.open().draw, network=broken))
    with pytest.raises(NumericalError, match=r"^a: 1 tensors of its weights.*'weight'.*training diverged"):
        world.comparison().run([bad])
    assert 0 == world.drawn


def test_a_row_of_an_older_version_that_does_not_say_where_it_was_timed_is_drawn_again(world, tmp_path):
    whole = world.comparison().run([world.method()])
    for path in (tmp_path / "out" / "rows").iterdir():
        row = json.loads(path.read_text())
        row["row"].pop("machines")
        path.write_text(json.dumps(row))
    assert numbers(whole) == numbers(world.comparison().run([world.method()]))
    assert 2 * BATCHES == world.drawn


def test_the_grid_is_decoded_on_the_device_of_the_comparison(world, toy, monkeypatch):
    seen = []

    def preview(self, x, c):
        seen.append((x.device.type, c["label"].device.type))
        return Preview(images=torch.zeros(len(x), 1, 2, 2, dtype=torch.uint8))

    monkeypatch.setattr(toy.Teacher, "preview", preview)
    comparison = world.comparison(device=torch.device("meta"))
    shown = [[0] * 4 for _ in comparison.shown_conditions()]
    assert _grid(comparison, [world.method()], [[{"shown": shown}]])
    assert [("meta", "meta")] == seen


def test_a_device_is_warmed_up_with_one_sample_and_the_first_batch_is_drawn_once(world, toy, monkeypatch):
    """On the meta device; its tokens are made on the CPU, where they can be read."""
    monkeypatch.setattr(drawing_module.Drawing, "_clock", lambda self: 0.0)
    counts = []

    def draw(c, draws):
        counts.append((draws.count, len(c["label"])))
        return Sampled(tokens=torch.zeros(draws.count, 4, dtype=torch.long), passes=1)

    comparison = world.comparison(device=torch.device("meta"))
    drawn = comparison.drawing(0).draw([0] * 6, Opened(draw=draw, network=nn.Linear(1, 1)))
    assert [(1, 1), (4, 4), (2, 2)] == counts
    assert 6 == len(drawn.tokens)


def test_logits_that_are_not_finite_are_an_error_wherever_they_are_drawn_from(toy, tiny_teacher):
    """From any sampler, and although the weights are finite; minus infinity alone forbids a code."""
    network = tiny_teacher.network()

    def draw(change):
        def drawn(c, draws):
            z = network.head(change(torch.ones(draws.count, 4, 8)))
            return Sampled(tokens=z.argmax(-1), passes=1)

        opened = Opened(draw=drawn, network=network)
        own = {"teacher": tiny_teacher, "seed": 0, "phase": "x", "batch_size": 2, "block": 4}
        return drawing_module.Drawing(**own).draw([0, 1, 0], opened)

    width = network.out.in_features
    assert 3 == len(draw(lambda x: torch.ones(len(x), 4, width)).tokens)
    with torch.no_grad():
        network.out.bias[0] = -torch.inf
    assert 3 == len(draw(lambda x: torch.ones(len(x), 4, width)).tokens)
    with pytest.raises(NumericalError, match=r"such as 'out\.bias'"):
        draw(lambda x: torch.full((len(x), 4, width), torch.nan))
    with torch.no_grad():
        network.out.bias[0] = 0
    with pytest.raises(NumericalError, match=r"nothing can be drawn from them: the weights are finite"):
        draw(lambda x: torch.full((len(x), 4, width), torch.inf))
    assert "head" not in vars(network)
