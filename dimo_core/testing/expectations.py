"""How the conformance checks compare, and how they say what they expected."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.tokens import Tokens, TokenSpace

TOLERANCE = 1e-4
"""Largest difference of fp32 logits that count as equal, relative to the largest entry."""

OTHERS = ("dimo_core", "torch", "attr", "jaxtyping", "beartype", "contextlib", "functools")
"""Packages whose frames are passed over when an error is located."""

P = ParamSpec("P")


def explains(check: Callable[P, None]) -> Callable[P, None]:
    """A check that raises nothing but ``AssertionError``, whatever the plugin raises."""

    @wraps(check)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> None:
        with explained(f"{check.__name__} meets no error"):
            check(*args, **kwargs)

    return explaining


@contextmanager
def explained(what: str) -> Iterator[None]:
    """What is raised within becomes an ``AssertionError`` that names the promise, the error and its place.

    Args:
        what: The promise.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        frames = [*traceback.walk_tb(error.__traceback__)]
        own = [f for f in frames if str(f[0].f_globals.get("__name__")).split(".")[0] not in OTHERS]
        frame, line = (own[1:] or own or frames)[-1]  # the first one is the caller's of the check
        place = f"{Path(frame.f_code.co_filename).name}:{line}, in {frame.f_code.co_qualname}"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise AssertionError(f"expected: {what}, not {text} ({place})") from error


def require(condition: bool, text: str) -> None:
    """Raise unless ``condition``.

    Raises:
        AssertionError: "expected: ..."; raised and not asserted, so that ``python -O`` checks too.
    """
    if not condition:
        raise AssertionError(f"expected: {text}")


def require_shape(t: Tensor, shape: tuple[int, ...], what: str) -> None:
    """``t`` has exactly this shape."""
    require(t.shape == shape, f"{what}, has shape {list(shape)}, not {list(t.shape)}")


def require_close(actual: Condition, expected: Condition, what: str, tolerance: float = 0.0) -> None:
    """The same structure, shapes and values, and dtypes where no tolerance is given.

    Args:
        actual: Tensors.
        expected: Those that they should be; one tensor where a tolerance is given.
        what: The promise.
        tolerance: By how much values may differ, relative to the largest entry.
    """
    atol = 0.0
    if tolerance:
        sizes = expected.detach().abs()  # those of what is forbidden are infinite
        atol = tolerance * max(1.0, sizes.masked_fill(sizes == torch.inf, 0.0).max().item())
    try:
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol, check_dtype=not tolerance)
    except (AssertionError, TypeError) as error:  # the latter: of a tensor and something else
        raise AssertionError(f"expected: {what} ({error})") from error


def require_condition(c: Condition, count: int, what: str) -> None:
    """A condition batch: tensors with ``count`` rows, in dicts, lists and tuples."""
    if isinstance(c, Tensor):
        told = f"{what} gives one row for each raw condition: {count}, not a tensor of shape {list(c.shape)}"
        require(c.ndim > 0 and len(c) == count, told)
        return
    inside = [*c.values()] if isinstance(c, dict) else c
    told = f"{what} gives tensors in dicts, lists and tuples; a {type(c).__name__} is none: use torch.tensor"
    require(isinstance(inside, list | tuple), told)
    require(len(inside) > 0, f"{what} gives a tensor at least, whose rows are the samples")
    for leaf in inside:
        require_condition(leaf, count, what)


def partly_masked(space: TokenSpace, c: Condition, draws: Draws) -> Tokens:
    """Random codes with every second site masked, and what is given."""
    return _masked(space, c, draws, torch.arange(space.length)[None] % 2 == 0)


def variously_masked(space: TokenSpace, c: Condition, draws: Draws) -> Tokens:
    """Random codes of which each sample has another number masked, from all to none, and what is given."""
    left = torch.linspace(space.length, 0, draws.count)[:, None]
    return _masked(space, c, draws, torch.arange(space.length) < left)


def _masked(space: TokenSpace, c: Condition, draws: Draws, masked: Bool[Tensor, "_ L"]) -> Tokens:
    x = space.codes_of(draws.uniform("x", space.length)).masked_fill(masked, space.mask_id)
    given = space.given(c)
    return given.put(x) if given else x


def require_logits(z: Float[Tensor, "B L V"], space: TokenSpace) -> None:
    """Finite, but for -inf at what is forbidden."""
    forbidden = space.restrict(torch.zeros_like(z)) < 0
    require(bool(z[~forbidden].isfinite().all()), "logits are finite")
    what = "codes that tokens forbids have logits of -inf: end the head with tokens.restrict(z, rows)"
    require(bool((z[forbidden] == -torch.inf).all()), what)


def require_tokens(
    x: Int[Tensor, "..."], count: int, space: TokenSpace, what: str, c: Condition = None
) -> None:
    """``count`` complete samples of the space; with their conditions, what these give is in them."""
    require_shape(x, (count, space.length), what)
    require(x.dtype == torch.long, f"{what} are of dtype int64, not {x.dtype}")
    wrong = x[(x < 0) | (x >= space.columns)]
    require(len(wrong) == 0, f"{what} are codes 0 .. {space.columns - 1}; {wrong[:1].tolist()} is none")
    given = None if c is None else space.given(c)
    if given is not None:
        require(torch.equal(given.put(x), x), f"{what} hold the tokens that their conditions give")
    if not space.scores_mask:
        try:
            space.checked(x, c)
        except UsageError as error:
            raise AssertionError(f"expected: {what} are codes that may be drawn ({error})") from error


def require_refusal(call: Callable[[], object], what: str) -> None:
    """The call raises ``UsageError``, and no other error."""
    try:
        with explained(what):
            call()
    except AssertionError as error:
        if isinstance(error.__cause__, UsageError):
            return
        raise
    raise AssertionError(f"expected: {what} (raise dimo_core.errors.UsageError)")


def require_extra(network: Backbone, x: Tokens, c: Condition, e: Float[Tensor, "B L E"]) -> None:
    """Further tokens are seen by all sites of their own sample, in any order, and leave nothing."""
    ratio, extra = torch.ones(len(x)), e[:, :2].detach().clone().requires_grad_()
    without, hidden = network(x, c, mask_ratio=ratio), network(x, c, mask_ratio=ratio, extra=extra)
    require_shape(hidden, tuple(without.shape), "hidden states with extra tokens, those of the sites")
    moved = (hidden - without).detach().abs().flatten(2).amax(2)
    require(bool((moved > 0).all()), "every site sees extra tokens")
    turned = network(x, c, mask_ratio=ratio, extra=extra.flip(1))
    require_close(turned, hidden, "extra tokens have no position", 1e-4)
    what = "gradients flow to the extra tokens of a sample from its own hidden states, and from no others"
    (grad,) = torch.autograd.grad(hidden[:1].sum(), extra)
    require(bool(grad[:1].any()) and not bool(grad[1:].any()), what)
