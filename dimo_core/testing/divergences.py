"""Divergences: eq. 4, and what happens at its edges."""

import torch

from dimo_core.divergence import Divergence
from dimo_core.testing.expectations import TOLERANCE, explains, require, require_close, require_shape
from dimo_core.testing.options import check_options


@explains
def check_divergence(divergence: Divergence, codes: int = 6) -> None:
    """Shapes, dtypes, zeros at p = q, and eq. 4 against autograd through ``value``.

    Args:
        divergence: With any options.
        codes: Number of codes V to try.
    """
    check_options(divergence)
    name = type(divergence).__qualname__
    generator = torch.Generator().manual_seed(0)
    z_p, z_q, z_w = torch.randn(3, 4, 5, codes, generator=generator, dtype=torch.float64).unbind()
    log_p, log_q, log_w = (z.log_softmax(-1) for z in (z_p, z_q, z_w))
    value, grad = divergence.value(log_p, log_q), divergence.grad(log_p, log_q)
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
    require(quiet.dtype == torch.float32, f"{name} keeps the dtype of its inputs: fp32, not {quiet.dtype}")
    require_close(quiet.double(), grad, f"{name} in fp32 within no_grad agrees with fp64", TOLERANCE)
    alone = divergence.grad(log_p[1:2, :1], log_q[1:2, :1])
    require_close(alone, grad[1:2, :1], f"{name} treats tokens one by one", 1e-9)
    for key, number in divergence.diagnostics(log_p, log_q).items():
        require_shape(number, (), f"the diagnostic {key!r} of {name}, a scalar")
