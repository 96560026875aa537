"""fp32 at logits of +-1e4 and underflowing probabilities, against 60-digit arithmetic on the same logits."""

from collections.abc import Callable

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from dimo_core.divergence import Divergence
from dimo_divergences import (
    FKL,
    GJS,
    JS,
    RKL,
    TV,
    Alpha,
    Hellinger,
    Jeffrey,
    SkewFKL,
    SkewRKL,
    Triangular,
)
from dimo_divergences.arithmetic import difference, log_mixture

Number = mpf
Term = Callable[[Number, Number], Number]


def kl_term(a: Number, b: Number) -> Number:
    return a * mp.log(a / b)


def jeffrey(b: float) -> tuple[Term, Term]:
    return (
        lambda p, q: (1 - mpf(b)) * kl_term(p, q) + mpf(b) * kl_term(q, p),
        lambda p, q: -(1 - mpf(b)) * p / q + mpf(b) * mp.log(q / p),
    )


def gjs(b: float) -> tuple[Term, Term]:
    b = mpf(b)
    return (
        lambda p, q: b * kl_term(p, b * p + (1 - b) * q) + (1 - b) * kl_term(q, b * p + (1 - b) * q),
        lambda p, q: (1 - b) * mp.log(q / (b * p + (1 - b) * q)),
    )


def skew_fkl(a: float) -> tuple[Term, Term]:
    a = mpf(a)
    return (
        lambda p, q: kl_term(p, a * p + (1 - a) * q),
        lambda p, q: -(1 - a) * p / (a * p + (1 - a) * q),
    )


def skew_rkl(a: float) -> tuple[Term, Term]:
    a = mpf(a)
    return (
        lambda p, q: kl_term(q, (1 - a) * p + a * q),
        lambda p, q: mp.log(q / ((1 - a) * p + a * q)) - a * q / ((1 - a) * p + a * q),
    )


def amari(a: float) -> tuple[Term, Term]:
    a = mpf(a)
    return (
        lambda p, q: (a * p + (1 - a) * q - p**a * q ** (1 - a)) / (a * (1 - a)),
        lambda p, q: -((p / q) ** a) / a,
    )


BOUNDED: list[tuple[Divergence, tuple[Term, Term]]] = [
    (JS(), gjs(0.5)),
    *((GJS(beta=b), gjs(b)) for b in (0.1, 0.9)),
    *((SkewFKL(alpha=a), skew_fkl(a)) for a in (0.01, 0.1, 0.9)),
    *((SkewRKL(alpha=a), skew_rkl(a)) for a in (0.01, 0.1, 0.9)),
    *((Alpha(alpha=a), amari(a)) for a in (0.2, 0.5, 0.9)),
    (TV(), (lambda p, q: abs(p - q) / 2, lambda p, q: mp.sign(q - p) / 2)),
    (Hellinger(), (lambda p, q: (mp.sqrt(p) - mp.sqrt(q)) ** 2, lambda p, q: -mp.sqrt(p / q))),
    (
        Triangular(),
        (lambda p, q: (p - q) ** 2 / (p + q), lambda p, q: (q - p) * (q + 3 * p) / (p + q) ** 2),
    ),
]
NAMED: list[tuple[Divergence, tuple[Term, Term]]] = [
    (FKL(), jeffrey(0.0)),
    (RKL(), jeffrey(1.0)),
    *((Jeffrey(beta=b), jeffrey(b)) for b in (-0.2, 0.2, 3.0)),
    (SkewFKL(alpha=0), jeffrey(0.0)),
    (SkewRKL(alpha=0), jeffrey(1.0)),
    (Alpha(alpha=1), jeffrey(0.0)),
]
BIG = 1e4


def extreme_logits() -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(5)

    def normal(scale: float) -> Tensor:
        return torch.randn(6, 7, generator=g) * scale

    def signs() -> Tensor:
        return BIG * (2.0 * torch.randint(2, (6, 7), generator=g) - 1)

    one_hot = torch.zeros(6, 7)
    one_hot[:, 2] = 20.0
    return {
        "all +-1e4": (signs(), signs()),
        "+-1e4 against ordinary": (signs(), normal(1.0)),
        "ordinary against +-1e4": (normal(1.0), signs()),
        "normal times 1e4": (normal(BIG), normal(BIG)),
        "underflow on both sides": (normal(100.0), normal(100.0)),
        "both sure of one code": (one_hot + normal(1.0), one_hot + normal(1.0)),
        "both very sure of one code": (3 * one_hot + normal(1.0), 3 * one_hot + normal(1.0)),
        "sure of different codes": (2 * one_hot + normal(1.0), 2 * one_hot.roll(1, -1) + normal(1.0)),
    }


def exact(z_phi: Tensor, z_psi: Tensor, terms: tuple[Term, Term]) -> tuple[Tensor, Tensor]:
    """Value and gradient of each row, from the textbook formulas in 60 digits."""
    values, grads = [], []
    with mp.workdps(60):
        for row_p, row_q in zip(z_phi.tolist(), z_psi.tolist(), strict=True):
            p, q = ([mp.exp(mpf(z) - max(row)) for z in row] for row in (row_p, row_q))
            p, q = ([x / mp.fsum(side) for x in side] for side in (p, q))
            value, potential = terms
            values.append(float(mp.fsum(map(value, p, q))))
            u = [potential(*pair) for pair in zip(p, q, strict=True)]
            mean = mp.fsum(x * y for x, y in zip(q, u, strict=True))
            grads.append([float(x * (y - mean)) for x, y in zip(q, u, strict=True)])
    return torch.tensor(values, dtype=torch.float64), torch.tensor(grads, dtype=torch.float64)


@pytest.mark.parametrize("case", extreme_logits())
@pytest.mark.parametrize(
    ("divergence", "terms"), NAMED + BOUNDED, ids=lambda c: repr(c).partition(" at 0x")[0][:40]
)
def test_fp32_is_finite_and_exact_at_extreme_logits(
    divergence: Divergence, terms: tuple[Term, Term], case: str
):
    if isinstance(divergence, TV) and "sure of one code" in case:
        pytest.skip("the sign of p - q at a code with p = q = 1 in fp32 is not in the log-probabilities")
    z_phi, z_psi = extreme_logits()[case]
    value, grad_z = exact(z_phi, z_psi, terms)
    log_p, log_q = z_phi.log_softmax(-1), z_psi.log_softmax(-1)
    got = divergence.grad(log_p, log_q)
    assert got.dtype == torch.float32
    assert got.isfinite().all()
    size = grad_z.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny / 1e-5)
    error = (got.double() - grad_z).abs()
    # Close to p = 0 the skewed reverse KL is flat: u is a small difference of its two terms.
    tolerance = 1e-4 if divergence == SkewRKL(alpha=0.9) else 2e-5
    assert (error <= tolerance * size).all(), f"{(error / size).max():.1e} of the row's largest entry"
    got_value = divergence.value(log_p, log_q).double()
    torch.testing.assert_close(got_value, value, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.999999])
def test_mixtures_are_exact_relative_to_themselves(share: float):
    d = torch.cat([sign * torch.logspace(-6, 4, 41) for sign in (-1, 1)])
    with mp.workdps(60):
        b = mpf(torch.tensor(share).item())
        expected = [float(mp.log(1 + b * (mp.exp(mpf(x)) - 1))) for x in d.tolist()]
    got = log_mixture(d, torch.tensor(share).item()).tolist()
    assert expected == pytest.approx(got, rel=2e-6, abs=1e-7 * share)


def test_differences_are_exact_relative_to_themselves():
    gap = torch.logspace(-6, 2, 33)
    with mp.workdps(60):
        expected = [float(mp.exp(-1) * (mp.exp(mpf(x)) - 1)) for x in (-gap).tolist()]
    log_b = torch.full_like(gap, -1.0)
    assert expected == pytest.approx(difference(log_b - gap, log_b, -gap).tolist(), rel=1e-6)
    assert [-x for x in expected] == pytest.approx(difference(log_b, log_b - gap, gap).tolist(), rel=1e-6)
