"""What a plugin is given stays as it is."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dimo_core.metric import TENSORS, Samples
from dimo_core.testing.expectations import require


@contextmanager
def untouched(what: str, *given: object, seeds: bool = False) -> Iterator[None]:
    """Within, nothing that is given changes, nor torch's global random numbers.

    Args:
        what: What gets it.
        given: Tensors, in lists, tuples, dicts and ``Samples``; anything else may change.
        seeds: Whether the global random numbers are looked at: not where networks may be built.
    """
    before, numbers = [_copied(thing) for thing in given], torch.get_rng_state()
    yield
    kept = all(same(now, old) for now, old in zip(given, before, strict=True))
    require(kept, f"{what} leaves what it is given as it is, and changes nothing in place: change a copy")
    if seeds:
        told = f"{what} neither draws torch's global random numbers nor seeds them"
        require(torch.equal(numbers, torch.get_rng_state()), f"{told}: runs repeat by their Draws alone")


def _copied(thing: object) -> object:
    match thing:
        case Tensor():
            return thing.detach().clone()
        case Samples():
            return [_copied(part) for part in _parts(thing)]
        case dict():
            return {key: _copied(part) for key, part in thing.items()}
        case list() | tuple():
            return [_copied(part) for part in thing]
    return copy.copy(thing)


def same(now: object, old: Any) -> bool:
    """Whether trees of tensors are equal to the last bit, NaN being equal to itself."""
    match now:
        case Tensor():
            alike = isinstance(old, Tensor) and (now.shape, now.dtype) == (old.shape, old.dtype)
            return alike and bool(((now == old) | ((now != now) & (old != old))).all())
        case Samples():
            return same(_parts(now), old)
        case dict():
            return {*now} == {*old} and all(same(now[key], old[key]) for key in now)
        case list() | tuple():
            return len(now) == len(old) and all(same(a, b) for a, b in zip(now, old, strict=True))
    return now is old or repr(now) == repr(old)


def _parts(samples: Samples) -> list[object]:
    return [samples.conditions, samples.observed, *(getattr(samples, name) for name in TENSORS)]
