"""Options classes as options: types, defaults, docs, coercion and plain data."""

import enum
from functools import cache
from pathlib import Path
from typing import Literal

import attrs
import pytest
from attrs import validators as v
from hypothesis import given
from hypothesis import strategies as st

from dimo_core import options
from dimo_core.errors import ConfigError, PluginError
from dimo_core.options import build, convert, first_line, options_of, plain, type_name


class Colour(enum.Enum):
    """Colours."""

    RED = 1
    BLUE = 2


@attrs.frozen(kw_only=True)
class Inner:
    """Inner.

    Attributes:
        size: How big,
            in two lines.
    """

    size: int = attrs.field(default=1, validator=v.gt(0))


@attrs.frozen(kw_only=True)
class Outer:
    """The first line.

    More.

    Attributes:
        rate: A rate.
        inner: Nested.
        colour: A colour.
    """

    rate: float
    inner: Inner = attrs.field(factory=lambda: Inner(size=5))
    colour: Colour = Colour.RED
    _hidden: int = 3
    computed: int = attrs.field(init=False, default=7)


@attrs.frozen(kw_only=True)
class Derived(Outer):
    """Derived.

    Attributes:
        rate: Another rate.
    """


@cache
def class_of(hint):
    return attrs.make_class("One", {"value": attrs.field(type=hint)}, frozen=True, kw_only=True)


def one(hint, value, *, text=False):
    """The value of a class's only option, or what is wrong with it."""
    typed, wrong = convert(class_of(hint), {("value",): value}, text=text)
    if wrong:
        raise ConfigError(wrong[("value",)])
    return typed[("value",)]


def test_options_are_the_fields_that_can_be_set():
    assert ["x.rate", "x.inner.size", "x.colour", "x.hidden"] == [o.key for o in options_of(Outer, ("x",))]


def test_defaults_come_from_the_owner_and_required_ones_have_none():
    defaults = {option.key: option.default for option in options_of(Outer)}
    assert {"rate": attrs.NOTHING, "inner.size": 5, "colour": Colour.RED, "hidden": 3} == defaults


def test_docs_come_from_the_docstrings_of_the_class_and_its_bases():
    docs = {option.key: option.doc for option in options_of(Derived)}
    assert ("Another rate.", "How big, in two lines.", "A colour.") == (
        docs["rate"],
        docs["inner.size"],
        docs["colour"],
    )
    assert "The first line." == first_line(Outer)


def test_objects_are_built_from_partial_values():
    assert Outer(rate=1.0, inner=Inner(size=5)) == build(Outer, {"rate": 1.0})
    assert Inner(size=2) == build(Outer, {"rate": 1.0, "inner": {"size": 2}}).inner


@pytest.mark.parametrize(
    ("values", "reason"),
    [({"rate": 1.0, "inner": {"size": 0}}, r"^inner\.size: must be > 0: 0$"), ({}, "^: .*rate")],
)
def test_a_refused_value_is_named_by_path(values, reason):
    with pytest.raises(ConfigError, match=reason):
        build(Outer, values)


def test_plain_data_and_objects_are_two_forms_of_one_thing():
    made = Outer(rate=1.0, colour=Colour.BLUE, hidden=4)
    data = plain(made)
    assert {"rate": 1.0, "inner": {"size": 5}, "colour": "BLUE", "hidden": 4} == data
    assert made == build(Outer, {**data, "colour": one(Colour, data["colour"])})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Path("a/b"), "a/b"), ((1, (2, 3)), [1, [2, 3]]), (frozenset({2, 1}), [1, 2]), ({1: None}, {"1": None})],
)
def test_plain_data_has_lists_strings_and_numbers_only(value, expected):
    assert expected == plain(value)


def test_what_no_file_can_hold_is_refused():
    with pytest.raises(PluginError, match="no config file can hold"):
        plain({"a": object()})


@pytest.mark.parametrize(
    ("hint", "text", "expected"),
    [
        (int, "4", 4),
        (float, "-1e-4", -1e-4),
        (float, "3", 3.0),
        (bool, "true", True),
        (bool, None, True),
        (str, "5", "5"),
        (str, "null", "null"),
        (str | None, "null", None),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, ...] | None, "null", None),
        (dict[str, int], "{a: 1}", {"a": 1}),
        (Literal["a", "b"], "b", "b"),
        (Path, "x/y", Path("x/y")),
        (Colour, "BLUE", Colour.BLUE),
    ],
)
def test_text_is_read_by_type(hint, text, expected):
    found = one(hint, text, text=True)
    assert (type(expected), expected) == (type(found), found)


@pytest.mark.parametrize(
    ("hint", "value", "text", "reason"),
    [
        (int, "four", True, "expected int, got 'four'"),
        (
            int,
            "0x10000000000000000",
            True,
            "expected int from -9223372036854775807 to 9223372036854775807, got '0x10000000000000000'",
        ),
        (int, 4.5, False, "expected int, got 4.5"),
        (int, True, False, "expected int, got True"),
        (int, None, False, "expected int, got null"),
        (int, None, True, "needs a value"),
        (float, "much", False, "expected float, got 'much'"),
        (str, 5, False, "expected str, got 5"),
        (Literal["a", "b"], "c", True, "expected a | b, got 'c'"),
        (tuple[int, ...] | None, ["x"], False, r"expected list of int | null, got ['x']"),
    ],
)
def test_another_type_is_refused_in_words(hint, value, text, reason):
    with pytest.raises(ConfigError) as caught:
        one(hint, value, text=text)
    assert reason == str(caught.value)


def test_a_whole_class_is_converted_and_each_mistake_is_told():
    given = {
        ("x", "rate"): "1e-3",
        ("x", "inner", "size"): "big",
        ("x", "colour"): "green",
        ("x", "hidden"): "4",
    }
    typed, wrong = convert(Outer, given, ("x",), text=True)
    assert {("x", "rate"): 1e-3, ("x", "hidden"): 4} == typed
    assert {
        ("x", "inner", "size"): "expected int, got 'big'",
        ("x", "colour"): "expected RED | BLUE, got 'green'",
    } == wrong


def test_a_type_makes_one_parser(monkeypatch):
    @attrs.frozen(kw_only=True)
    class Twice:
        first: Literal["a", "read by this test only"] = "a"
        second: Literal["a", "read by this test only"] = "a"

    made = []
    parser = options.ArgumentParser
    monkeypatch.setattr(options, "ArgumentParser", lambda **how: made.append(how) or parser(**how))
    for value in ("a", "wrong"):
        convert(Twice, {("first",): value, ("second",): "a"}, text=True)
    assert 1 == len(made)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_coercion(number):
    assert number == one(float, number)
    assert number == one(float, repr(number), text=True)


@given(st.text())
def test_strings_are_never_read_as_yaml(text):
    assert text == one(str, text, text=True)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, "int"),
        (float | None, "float | null"),
        (Literal["x", 2], "x | 2"),
        (tuple[int, ...], "list of int"),
        (list[str], "list of str"),
        (tuple[int, str], "[int, str]"),
        (tuple[int], "[int]"),
        (Colour, "RED | BLUE"),
        (dict[str, int], "dict[str, int]"),
    ],
)
def test_types_are_shown_in_words(hint, expected):
    assert expected == type_name(hint)


def test_a_default_that_depends_on_other_options_is_refused():
    @attrs.frozen(kw_only=True)
    class Dependent:
        a: int = 1
        b: int = attrs.field(default=attrs.Factory(lambda self: self.a, takes_self=True))

    with pytest.raises(PluginError, match=r"Dependent\.b: a default must not depend"):
        options_of(Dependent)
