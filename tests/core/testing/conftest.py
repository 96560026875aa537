"""What tests of the kit share: plugins that keep the contract, to be broken."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest


def _broken(plugin: Any, **methods: Any) -> Any:
    """The same plugin, some of its methods replaced."""
    cls = type(plugin)
    made = type(cls.__name__, (cls,), {"__doc__": cls.__doc__, **methods})
    worse = attrs.frozen(kw_only=True, slots=False)(made)
    return worse(**{field.name: getattr(plugin, field.name) for field in attrs.fields(cls) if field.init})


@pytest.fixture
def broken() -> Callable[..., Any]:
    return _broken


@pytest.fixture
def whole(tiny_teacher: Any) -> Any:
    """The tiny teacher with a real ``share=True``."""
    first: list[Any] = []

    def network(self: Any, *, share: bool = False) -> Any:
        made = type(tiny_teacher).network(self)
        if share:
            first.append(made)
            for name, p in first[0].named_parameters():
                owner, _, leaf = name.rpartition(".")
                setattr(made.get_submodule(owner), leaf, p)
        return made

    return _broken(tiny_teacher, network=network)
