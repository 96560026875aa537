"""No condition: for teachers that have one condition only, and for no others."""

from typing import Any

import pytest
import torch

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.testing import check_conditions
from dimo_prompts.nothing import Nothing

NONE, TEXT, ONE = (
    Conditioning(kind="none"),
    Conditioning(kind="text"),
    Conditioning(kind="label", classes=("text",)),
)


@pytest.mark.parametrize(("conditioning", "one"), [(NONE, ""), (TEXT, ""), (ONE, 0)])
def test_its_condition_is_the_empty_text_or_the_only_class(conditioning: Conditioning, one: Any) -> None:
    assert [one] * 3 == Nothing().open(conditioning, seed=1).read(10**6, 3)
    assert [one] * 2 == Nothing().balanced(conditioning, 2)


def test_it_keeps_the_contract(tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_teacher), "conditioning", NONE)
    monkeypatch.setattr(type(tiny_teacher), "encode_conditions", lambda self, raw: torch.zeros(len(raw)))
    check_conditions(Nothing(), tiny_teacher)


def test_words_for_an_unconditional_teacher_are_refused_and_prompts_are_read() -> None:
    with pytest.raises(UsageError, match=r"the teacher is unconditional, and 'a cat' was given"):
        Nothing().parse(NONE, ["a cat"])
    assert ["a cat"] == Nothing().parse(TEXT, ["a cat"])
    assert [0] == Nothing().parse(ONE, ["text"])


def test_a_teacher_that_must_be_told_something_is_refused() -> None:
    with pytest.raises(UsageError, match=r"but the teacher takes 'label' conditions with 2 classes"):
        Nothing().open(Conditioning(kind="label", classes=("a", "b")), seed=0)
