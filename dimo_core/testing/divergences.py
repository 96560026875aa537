"""Divergences: eq. 4, and what happens at its edges."""

import torch

from dimo_core.divergence import Divergence
from dimo_core.testing.expectations import TOLERANCE, explains, require, require_close, require_shape
from dimo_core.testing.options import check_options
from dimo_core.testing.untouched import untouched


@explains
def check_divergence(divergence: Divergence, codes: int = 6, *, signed: bool = False) -> None:
    """Shapes, dtypes, signs, zeros at p = q, and eq. 4 against autograd through ``value``.

    Args:
        divergence: With any options.
        codes: Number of codes V to try.
        signed: Whether it may be negative, as one that goes beyond two divergences may.
    """
    check_options(divergence)
    name = type(divergence).__qualname__
    generator = torch.Generator().manual_seed(0)
    z_p, z_q, z_w = torch.randn(3, 4, 5, codes, generator=generator, dtype=torch.float64).unbind()
    log_p, log_q, log_w = (z.log_softmax(-1) for z in (z_p, z_q, z_w))
    with untouched(name, log_p, log_q, seeds=True):
        value, grad = divergence.value(log_p, log_q), divergence.grad(log_p, log_q)
    told = f"{name} is never negative; it is {float(value.min()):.3g} somewhere"
    require(
        signed or bool((value >= -1e-9).all()), f"{told} (check_divergence(..., signed=True) if it may be)"
    )
    require_shape(value, (4, 5), f"value of {name}, one number a token")
    leaf = z_q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(divergence.value(log_p, leaf.log_softmax(-1)).sum(), leaf)
    require_close(grad, expected, f"grad of {name} is the gradient of its value in z_psi (eq. 4)", 1e-6)
    require_close(grad.sum(-1), torch.zeros(4, 5).double(), f"rows of grad of {name} sum to 0", 1e-9)
    same = divergence.grad(log_p, log_p)
    require_close(divergence.value(log_p, log_p), torch.zeros(4, 5).double(), f"{name} is 0 at p = q", 1e-6)
    require_close(same, torch.zeros_like(same), f"the gradient of {name} is 0 at p = q", 1e-6)
    student = divergence.student_grad(log_p, log_q, log_w)
    require_shape(student, (4, 5, codes), f"student_grad of {name}")
    student = divergence.student_grad(log_p, log_q, log_q)
    require_close(student, grad, f"student_grad of {name} at w = q is grad", 1e-6)
    with torch.no_grad():
        quiet = divergence.grad(log_p.float(), log_q.float())
        whole = divergence.value(log_p.float(), log_q.float())
    for found in (quiet, whole):
        require(
            found.dtype == torch.float32, f"{name} keeps the dtype of its inputs: fp32, not {found.dtype}"
        )
    _check_extremes(divergence, codes)
    require_close(quiet.double(), grad, f"{name} in fp32 within no_grad agrees with fp64", TOLERANCE)
    alone = divergence.grad(log_p[1:2, :1], log_q[1:2, :1])
    require_close(alone, grad[1:2, :1], f"{name} treats tokens one by one", 1e-9)
    for key, number in divergence.diagnostics(log_p, log_q).items():
        require_shape(number, (), f"the diagnostic {key!r} of {name}, a scalar")


def _check_extremes(divergence: Divergence, codes: int) -> None:
    """Finite where a network is sure, and where a code is forbidden to both."""
    name = type(divergence).__qualname__
    sure, even = torch.zeros(2, 1, 1, codes).unbind()
    sure[..., 0], sure[..., -1] = 30.0, -30.0
    forbidden = even.index_fill(-1, torch.tensor([1]), -torch.inf)
    cases = (
        ("p has logits of 30 and -30", sure, even),
        ("q has logits of 30 and -30", even, sure),
        ("p and q are sure of different codes, with logits of 30 and -30", sure, sure.flip(-1)),
        ("a code is forbidden to both: log p = log q = -inf", forbidden, forbidden + sure),
    )
    for what, p, q in cases:
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        found = (divergence.value(log_p, log_q), divergence.grad(log_p, log_q))
        finite = all(bool(t.isfinite().all()) for t in found)
        require(finite, f"value and grad of {name} are finite where {what}")
