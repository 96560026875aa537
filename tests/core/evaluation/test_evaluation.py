"""Evaluation: rows repeat, depend on nothing else, and survive what is missing."""

import json

import attrs
import pytest
import torch
from loguru import logger

from dimo_core.choice import Choice
from dimo_core.errors import PluginError, UnknownNameError
from dimo_core.evaluation.drawing import Opened
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.protocols import Protocol
from dimo_core.evaluation.table import Table
from dimo_core.jobs.compared import TeacherRows
from dimo_core.jobs.results import RunRows, row_of_generator
from dimo_core.settings import Evaluate


@pytest.fixture
def evaluator(toy):
    def make(plan=toy.plan, teacher=None, seed=0, **settings):
        return RunRows.of(
            teacher or toy.Teacher(),
            plan,
            toy.Registry(),
            conditions=toy.Conditions(),
            settings=Evaluate(**{"batch_size": 8, **settings}),
            seed=seed,
            device=torch.device("cpu"),
        )

    return make


def test_a_row_repeats_exactly(evaluator, toy):
    first, second = (evaluator().row(row_of_generator(toy.Generator())) for _ in range(2))
    assert attrs.evolve(first, seconds=0.0) == attrs.evolve(second, seconds=0.0)


def test_another_seed_draws_other_samples(evaluator, toy):
    first, second = (evaluator(seed=seed).row(row_of_generator(toy.Generator())) for seed in (0, 1))
    assert first.metrics != second.metrics


def test_a_row_does_not_depend_on_torchs_own_generator_nor_change_it(evaluator, toy):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = evaluator().row(row_of_generator(toy.Generator()))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert first.metrics == evaluator().row(row_of_generator(toy.Generator())).metrics


def test_a_row_draws_the_number_of_samples_in_batches(evaluator, toy):
    generator = toy.Generator()
    row = evaluator().row(row_of_generator(generator))
    assert (30, [8, 8, 8, 6]) == (row.samples, generator.batches)


@pytest.mark.parametrize(
    ("settings", "given", "expected"), [({}, None, 30), ({"samples": 12}, None, 12), ({}, 9, 9)]
)
def test_the_sample_count_comes_from_the_call_then_the_settings_then_the_plan(
    evaluator, toy, settings, given, expected
):
    assert expected == evaluator(**settings).row(row_of_generator(toy.Generator()), samples=given).samples


def test_networks_get_their_modes_back(evaluator, toy):
    generator, network = toy.Generator(), toy.Backbone()
    generator.train()
    generator.backbone.eval()
    generator.backbone.dropout.train()
    network.train()
    evaluator().table(generator, network)
    modes = (generator.training, generator.backbone.training, generator.backbone.dropout.training)
    assert ((True, False, True), True) == (modes, network.training)


def test_modes_come_back_after_an_error_too(evaluator, toy):
    class Failing(toy.Generator):
        def sample(self, c, draws):
            raise RuntimeError("no memory")

    generator = Failing().train()
    with pytest.raises(RuntimeError, match="no memory"):
        evaluator().row(row_of_generator(generator))
    assert generator.training


def test_a_missing_library_costs_one_metric_and_is_noted_once(evaluator, toy):
    lines = []
    sink = logger.add(lines.append, format="{message}")
    judged = evaluator()
    rows = [judged.row(row_of_generator(toy.Generator())) for _ in range(2)]
    logger.remove(sink)
    expected = "metric 'broken' is missing: foo does not load. Install it: pip install foo"
    assert [expected] == judged.judge.notes
    assert [expected] == [str(line).strip() for line in lines]
    assert {"variety", "brightness"} == set(rows[0].metrics)


def test_an_unknown_metric_is_noted(evaluator, toy):
    more = attrs.evolve(toy.plan, metrics=(*toy.plan.metrics, Choice("varietx")))
    assert "Did you mean 'variety'?" in evaluator(more).judge.notes[0]


def test_the_table_has_the_teacher_at_each_step_count_then_the_generator_then_real_data(evaluator, toy):
    table = evaluator().table(toy.Generator(), toy.Backbone())
    expected = [
        ("teacher, 4 steps", "teacher", 4, 8, 30),
        ("teacher, 1 step", "teacher", 1, 2, 30),
        ("generator, 1 step", "generator", 1, 1, 30),
        ("real data", "real", 0, 0, 30),
    ]
    assert expected == [(r.name, r.kind, r.steps, r.passes, r.samples) for r in table.rows]
    assert all((row.seconds > 0) == (row.kind != "real") for row in table.rows)


def test_step_counts_can_be_chosen(evaluator, toy):
    table = evaluator(steps=(3,)).table(toy.Generator(), toy.Backbone())
    assert [3, 1, 0] == [row.steps for row in table.rows]


def test_the_real_row_is_the_distance_between_two_real_parts(evaluator, toy):
    judged = evaluator()
    held_out, other = (
        judged.judge.data.load(split).images.double().mean() for split in ("held-out", "other")
    )
    assert {"brightness": pytest.approx(abs(held_out - other).item())} == judged.table(
        None, toy.Backbone()
    ).rows[-1].metrics


def test_reference_features_are_extracted_once(evaluator, toy, monkeypatch):
    judged = evaluator()
    seen = []
    extract = type(judged.judge.features).extract
    monkeypatch.setattr(
        type(judged.judge.features), "extract", lambda self, x: seen.append(len(x)) or extract(self, x)
    )
    for _ in range(2):
        judged.row(row_of_generator(toy.Generator()), samples=8)
    assert 40 + 2 * 8 == sum(seen)


def test_tokens_without_decoding_are_judged_as_tokens(evaluator, toy):
    plan = attrs.evolve(
        toy.plan,
        metrics=(Choice("variety"),),
        best="-variety",
        data=None,
        features=None,
        split="",
        floor_split="",
    )
    table = evaluator(plan, toy.TokensTeacher()).table(toy.Generator(), toy.Backbone())
    assert [{"variety"}] * 3 == [set(row.metrics) for row in table.rows]
    assert () == table.notes


def test_the_protocol_says_what_makes_numbers_comparable(evaluator, toy):
    protocol = evaluator().table(toy.Generator(), toy.Backbone()).protocol
    assert {"name": "toy", "split": "held-out", "size": 40} == protocol["reference"]
    assert {"split": "other", "size": 30} == protocol["floor"]
    assert "abc123" == protocol["fingerprint"]
    assert {"class": "ToySampler", "greed": 0.25} == protocol["sampler"]
    assert {"class": "Constant", "scale": 1.0} == protocol["guidance"]
    assert {"temperature": 1.0} == protocol["generator"]
    assert (30, 0, 8) == (protocol["samples"], protocol["seed"], protocol["batch_size"])


def test_a_table_survives_json(evaluator, toy):
    table = evaluator().table(toy.Generator(), toy.Backbone())
    assert table == Table.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)))


def test_few_samples_are_noted(evaluator, toy):
    assert (
        "3 samples are few for 4 features"
        in evaluator(samples=3).table(toy.Generator(), toy.Backbone()).notes[0]
    )


def test_few_samples_are_noted_where_there_is_no_reference_to_count_features_of(evaluator, toy):
    plan = attrs.evolve(toy.plan, data=None, floor_split="", metrics=(Choice("variety"),))
    table = evaluator(plan, samples=3).table(toy.Generator(), toy.Backbone())
    assert "3 samples are few for 4 features" in table.notes[0]


def test_the_size_of_the_real_row_is_not_held_against_the_others(evaluator, toy):
    table = evaluator(samples=20).table(toy.Generator(), toy.Backbone())
    assert {20} < {row.samples for row in table.rows}
    assert not any(note.startswith("Rows differ in n") for note in table.notes)


def test_batches_come_in_order_and_say_that_they_were_drawn_just_now(evaluator, toy):
    rows, opened = evaluator(), Opened.generator(toy.Generator())
    batches = rows.drawing(0).batches(rows.raw(20), opened)
    assert [(0, 8, False), (8, 8, False), (16, 4, False)] == [
        (batch.start, len(batch.samples), batch.found) for batch in batches
    ]


def test_the_batch_size_changes_no_sample(evaluator, toy):
    first, second = (evaluator(batch_size=size).row(row_of_generator(toy.Generator())) for size in (7, 30))
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    ("best", "numbers", "expected"),
    [
        ("fid", {"fid": 3.0}, 3.0),
        ("-readable", {"readable": 0.9}, -0.9),
        ("fid", {}, float("inf")),
        ("-readable", {"readable": float("nan")}, float("inf")),
    ],
)
def test_the_score_for_best_is_smaller_when_better_and_infinite_when_missing(
    evaluator, toy, best, numbers, expected
):
    assert expected == evaluator(attrs.evolve(toy.plan, best=best)).judge.score(numbers)


WHOSE = "the evaluation plan of teacher ToyTeacher: unknown"


@pytest.mark.parametrize("kind", ["data", "features", "guidance", "sampler"])
def test_a_plan_that_names_what_does_not_exist_is_named(toy, kind):
    plan = attrs.evolve(toy.plan, **{kind: Choice("lost")})
    with pytest.raises(PluginError, match=f"^{WHOSE} {kind} 'lost'"):
        RunRows.of(toy.Teacher(), plan, toy.Registry(), settings=Evaluate())


def test_a_metric_of_a_plan_that_does_not_exist_is_named_and_left_out(toy, told):
    plan = attrs.evolve(toy.plan, metrics=(Choice("lost"), Choice("variety")))
    judge = Judge.resolve(toy.Teacher(), plan, toy.Registry(), batch_size=4)
    assert ["variety"] == [*judge.metrics]
    (note,) = judge.notes
    assert note.startswith(f"metric 'lost' is left out: {WHOSE} metric 'lost'")


def test_what_a_user_names_is_not_the_plans_fault(toy):
    changed = Protocol.resolve(toy.plan, changes={"samples": 10, "features": Choice("lost")})
    with pytest.raises(UnknownNameError, match=r"^unknown features 'lost'"):
        Judge.resolve(toy.Teacher(), changed, toy.Registry(), batch_size=4)
    named = Protocol.resolve(attrs.evolve(toy.plan, features=Choice("lost")), "quick")
    with pytest.raises(PluginError, match=f"^{WHOSE} features 'lost'"):
        Judge.resolve(toy.Teacher(), named, toy.Registry(), batch_size=4)


class Planned:
    """A teacher whose plan names what does not exist."""

    def __init__(self, plan):
        self.plan = plan

    def evaluation(self):
        return self.plan


@pytest.mark.parametrize("kind", ["guidance", "sampler"])
def test_rows_of_a_comparison_say_whose_plan_is_wrong(toy, kind):
    teacher = Planned(attrs.evolve(toy.plan, **{kind: Choice("lost")}))
    with pytest.raises(PluginError, match=rf"^the evaluation plan of teacher Planned: unknown {kind} 'lost'"):
        TeacherRows().ways(teacher, toy.Registry())
    own = TeacherRows(samplers=(Choice("toy"),), guidance=Choice("constant"))
    assert len(own.ways(teacher, toy.Registry())) == 2
