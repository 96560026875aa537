"""Protocols: names, files, changes, digests, and differences."""

import json
import re

import attrs
import pytest
import yaml

from dimo_core.choice import Choice
from dimo_core.errors import ConfigError, UnknownNameError, UsageError
from dimo_core.evaluation.protocols import NAMED, Protocol, differences, digest


@pytest.fixture
def plan(toy):
    return toy.plan


def test_a_protocol_is_frozen(plan):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Protocol.resolve(plan).samples = 3


def test_the_plan_is_the_default_protocol(plan):
    protocol = Protocol.resolve(plan)
    assert ("plan", 30, (0,), "held-out") == (
        protocol.name,
        protocol.samples,
        protocol.seeds,
        protocol.split,
    )
    same = ("data", "split", "floor_split", "features", "metrics", "samples", "best", "shown")
    assert [getattr(plan, name) for name in same] == [getattr(protocol, name) for name in same]


@pytest.mark.parametrize("name", NAMED)
def test_named_protocols_change_what_they_say(plan, name):
    protocol = Protocol.resolve(plan, name)
    assert name == protocol.name
    assert NAMED[name].items() <= attrs.asdict(protocol, recurse=False).items()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"samples": None, "seeds": None}, "quick"),
        ({"samples": 500}, "quick"),
        ({"samples": 501}, "quick, changed"),
        ({"temperatures": [3.0, 5.0]}, "quick, changed"),
    ],
)
def test_a_changed_protocol_says_so(plan, changes, name):
    assert name == Protocol.resolve(plan, "quick", changes).name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {path: y}", "expected a name, or a mapping with 'name' and options, got {'path': 'y'}"),
        ("metrics: [{nam: fid}]", "expected a name, or a mapping"),
        ("metrics: [null]", "expected a name, or a mapping"),
        ("samples: 1e4", "'samples' must be <class 'int'>"),
        ("seeds: [a]", "'seeds' must be <class 'int'>"),
        ("block: 2.5", "'block' must be <class 'int'>"),
    ],
)
def test_wrong_values_of_a_file_are_explained(plan, tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(f"{text}\n")
    with pytest.raises(ConfigError, match=re.escape(said)):
        Protocol.resolve(plan, str(tmp_path / "p.yaml"))


def test_a_seed_that_is_given_twice_is_no_second_seed(plan):
    with pytest.raises(ConfigError, match=r"'seeds' must differ from one another, got \[0, 0\]"):
        Protocol.resolve(plan, changes={"seeds": (0, 0)})


def test_a_protocol_survives_its_file(plan, tmp_path):
    protocol = Protocol.resolve(plan, "quick", {"seeds": (1, 2), "temperatures": (0.5,)})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(protocol.as_dict()))
    assert protocol == Protocol.resolve(None, str(tmp_path / "p.yaml"))


@pytest.mark.parametrize("name", NAMED)
def test_a_saved_protocol_keeps_its_name_and_an_edited_one_says_so(plan, tmp_path, name):
    plan = attrs.evolve(plan, metrics=(Choice("fid", {"numbers": ("fid", "is"), "neighbours": 3}),))
    protocol = Protocol.resolve(plan, name)
    facts, path = json.loads(json.dumps(protocol.as_dict())), tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(facts))
    again = Protocol.resolve(plan, str(path))
    assert (name, digest(protocol.as_dict())) == (again.name, digest(again.as_dict()))
    assert f"{name}, changed" == Protocol.resolve(plan, str(path), {"samples": 77}).name
    for field, value in [("samples", 50), ("seeds", [1]), ("metrics", ["fid"]), ("split", "other")]:
        path.write_text(yaml.safe_dump({**facts, field: value}))
        changed = Protocol.resolve(plan, str(path))
        assert f"{name}, changed" == changed.name
        path.write_text(yaml.safe_dump({**facts, **changed.as_dict(), "metrics": facts["metrics"]}))
        assert changed.name == Protocol.resolve(plan, str(path)).name


def test_a_built_in_name_is_that_of_the_plan_at_hand(plan, tmp_path):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(Protocol.resolve(plan, "quick").as_dict()))
    assert "quick, changed" == Protocol.resolve(None, str(tmp_path / "p.yaml")).name
    (tmp_path / "p.yaml").write_text("{name: quick, samples: 500}")
    assert "quick" == Protocol.resolve(plan, str(tmp_path / "p.yaml")).name


def test_a_metric_that_is_named_twice_is_refused(plan, tmp_path):
    twice = (Choice("fid", {"neighbours": 3}), Choice("other"), Choice("fid", {"neighbours": 5}))
    with pytest.raises(ConfigError, match=r"'metrics' has 'fid' more than once.*two protocols.*--out"):
        Protocol.resolve(plan, changes={"metrics": twice})
    (tmp_path / "p.yaml").write_text("metrics: [fid, fid]\n")
    with pytest.raises(ConfigError, match="'metrics' has 'fid' more than once"):
        Protocol.resolve(plan, str(tmp_path / "p.yaml"))


def test_a_file_overrides_the_plan(plan, tmp_path):
    (tmp_path / "p.yaml").write_text("{name: mine, samples: 7, metrics: [variety]}")
    protocol = Protocol.resolve(plan, str(tmp_path / "p.yaml"))
    assert ("mine", 7, (Choice("variety"),), "held-out") == (
        protocol.name,
        protocol.samples,
        protocol.metrics,
        protocol.split,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{sample: 7}", "unknown keys: sample. Known: samples, data, split"),
        ("{samples: many}", "'samples' must be <class 'int'> (got 'many' that is a <class 'str'>)."),
        ("[1]", "must hold a mapping"),
        ("{a: [}", "cannot read protocol file"),
        ("{samples: 1}", "must be > 1: 1"),
        ("{temperatures: [0]}", "must be > 0"),
    ],
)
def test_a_wrong_file_is_explained(plan, tmp_path, text, reason):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        Protocol.resolve(plan, str(tmp_path / "p.yaml"))
    assert "Attribute(" not in str(caught.value), "what attrs keeps behind the message of a validator"


def test_an_unknown_name_is_answered_with_the_known_ones(plan):
    with pytest.raises(UnknownNameError, match="Did you mean 'quick'"):
        Protocol.resolve(plan, "quik")
    with pytest.raises(UsageError, match=r"no protocol file 'none\.yaml'"):
        Protocol.resolve(plan, "none.yaml")


def test_without_plan_and_metrics_there_is_nothing_to_measure():
    with pytest.raises(UsageError, match=r"brings no evaluation plan. Name metrics with --metrics"):
        Protocol.resolve(None)
    assert (Choice("fidelity"),) == Protocol.resolve(None, changes={"metrics": (Choice("fidelity"),)}).metrics


def test_the_name_does_not_count_and_everything_else_does(plan):
    facts = Protocol.resolve(plan).as_dict()
    assert digest(facts) == digest({**facts, "name": "changed"})
    for key in facts:
        if key != "name":
            assert digest(facts) != digest({**facts, key: "changed"}), key


def test_differences_name_the_facts_and_their_values():
    one = {"name": "a", "samples": 3000, "features": {"name": "x", "size": 1}, "seeds": [0]}
    two = {"name": "b", "samples": 500, "features": {"name": "x", "size": 2}, "seeds": [0]}
    assert ["samples (3000 | 500)", "features.size (1 | 2)"] == differences([one, two])
    assert [] == differences([one, {**one, "name": "c"}])


def test_metrics_that_are_named_have_the_options_of_the_plan(plan):
    own = attrs.evolve(plan, metrics=(Choice("fid", {"statistics": "a.npz"}), Choice("other")))
    named = Protocol.resolve(own, changes={"metrics": (Choice("fid"), Choice("new"))}).metrics
    assert (Choice("fid", {"statistics": "a.npz"}), Choice("new")) == named
    other = Choice("fid", {"statistics": "b.npz"})
    assert (other,) == Protocol.resolve(own, changes={"metrics": (other,)}).metrics


def test_temperatures_are_positive(plan):
    with pytest.raises(ConfigError, match="must be > 0"):
        Protocol.resolve(plan, changes={"temperatures": (0.0,)})
