"""The source keeps what dimo relies on, and draws evenly."""

from dimo_core.conditions import Conditioning
from dimo_core.testing import TinyTeacher, check_conditions

from dimo_topics.conditions import Topics


def test_it_keeps_the_contract() -> None:
    check_conditions(Topics(texts=("a", "b", "c")), TinyTeacher(kind="text"))


def test_each_text_is_as_likely_as_the_others() -> None:
    drawn = Topics(texts=("a", "b")).open(Conditioning(kind="text"), seed=0).read(5, 10_000)
    assert 4700 < drawn.count("a") < 5300
