"""YAML of others: what it may hold, and that no file takes long."""

import time

import pytest

from dimo_core import limits
from dimo_core.files.yaml_text import YamlFault, parsed

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 8)}]\n" for i in range(20)
)


def test_aliases_are_read():
    assert {"a": {"b": 1}, "c": {"b": 1, "d": 2}} == parsed(b"a: &a {b: 1}\nc: {<<: *a, d: 2}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "with its aliases written out it has more than 4,194,304 characters"),
        ("a: &a [*a]", "an alias stands for what holds it"),
        (f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 100)}]", "with its aliases written out"),
        ("a: " + "x" * limits.YAML, "it has 1,048,579 bytes, and at most 1,048,576 are read"),
        ("[" * 500_000, "nested deeper than 100 lists|maximum nesting depth"),
        ("{a: " * 200_000, "nested deeper than 100"),
        ("- " * 500_000, "nested deeper than 100"),
        ("a: 1\nb: {c: 2, c: 3}", "line 2, column 11: the key 'c' is there twice"),
        ("a: 2026-99-99", "month must be in"),
        (f"a: {'9' * 5000}", "column 4: a number of 5,000 characters; 100 are the most"),
        (f"a: -0x{'f' * 1_000_000}", "a number of 1,000,003 characters"),
        (f"a: 0{'7' * 1_000_000}", "a number of 1,000,001 characters"),
        (f"a: 0b{'1' * 1_000_000}", "a number of 1,000,002 characters"),
        (f"a: 1{':59' * 300_000}", "a number of 900,001 characters"),
        (f"a: 1{':59' * 300_000}.5", "a number of 900,003 characters"),
        (f"a: {'9' * 1_000_000}.5", "a number of 1,000,002 characters"),
        (f"{'9' * 1000}: a", "line 1, column 1: a number of 1,000 characters"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
    ids=[
        "bomb",
        "itself",
        "text",
        "long",
        "deep",
        "maps",
        "dashes",
        "twice",
        "date",
        "number",
        *"xobsfdk",
        "object",
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_soon(text, reason):
    began = time.process_time()
    with pytest.raises(YamlFault, match=reason) as caught:
        parsed(text.encode())
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 10


def test_numbers_of_any_use_are_read():
    text = f"a: 0x{'f' * 30}\nb: -{'9' * 99}\nc: '{'9' * 500}'\nd: 0.{'1' * 90}e-5"
    assert {"a": 16**30 - 1, "b": 1 - 10**99, "c": "9" * 500, "d": float(f"0.{'1' * 90}e-5")} == parsed(
        text.encode()
    )
