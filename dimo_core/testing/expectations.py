"""How the conformance checks compare, and how they say what they expected."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.errors import DimoError, UsageError
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace


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


def partly_masked(space: TokenSpace, c: Condition, draws: Draws) -> Tokens:
    """Random codes with every second site masked, and what is given."""
    x = space.codes_of(draws.uniform("x", space.length))
    x[:, ::2] = space.mask_id
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
    """The call raises ``UsageError``."""
    try:
        call()
    except UsageError:
        return
    raise AssertionError(f"expected: {what} (raise dimo_core.errors.UsageError)")


def require_suggestions(teacher: Teacher) -> None:
    """What the teacher suggests can be used: recipes, evaluation plan, and every named sampling."""
    named = all(isinstance(key, str) for recipe in teacher.recipes().values() for key in recipe)
    require(named, "recipes are mappings by option name")
    if (plan := teacher.evaluation()) is not None:
        require(EvaluationPlan(**plan.as_dict()) == plan, "the evaluation plan survives YAML")
    samplings = teacher.samplings()
    for name, sampling in samplings.items():
        require(bool(sampling.source), f"the sampling {name!r} tells its source")
        try:
            TeacherSampling.of(sampling, Registry.discover(), name)
        except DimoError as error:
            raise AssertionError(
                f"expected: sampler and guidance of the sampling {name!r} can be built ({error})"
            ) from error


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
