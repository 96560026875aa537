"""Values and gradients against float64 autograd of independent definitions, and against the golden file."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
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
    Neyman,
    Pearson,
    SkewFKL,
    SkewRKL,
    Triangular,
)

GOLDEN = Path(__file__).parents[1] / "data" / "divergence.safetensors"

Definition = Callable[[Tensor, Tensor], Tensor]


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a * (a / b).log()).sum(-1)


def gjs(beta: float) -> Definition:
    return lambda p, q: (
        beta * kl(p, beta * p + (1 - beta) * q) + (1 - beta) * kl(q, beta * p + (1 - beta) * q)
    )


def amari(a: float) -> Definition:
    return lambda p, q: (1 - (p**a * q ** (1 - a)).sum(-1)) / (a * (1 - a))


CASES: list[tuple[Divergence, Definition]] = [
    (FKL(), kl),
    (RKL(), lambda p, q: kl(q, p)),
    *((Jeffrey(beta=b), lambda p, q, b=b: (1 - b) * kl(p, q) + b * kl(q, p)) for b in (-0.2, 0.2, 0.5, 3.0)),
    (JS(), gjs(0.5)),
    *((GJS(beta=b), gjs(b)) for b in (0.01, 0.3, 0.9)),
    *((SkewFKL(alpha=a), lambda p, q, a=a: kl(p, a * p + (1 - a) * q)) for a in (0.0, 0.001, 0.1, 0.9)),
    *((SkewRKL(alpha=a), lambda p, q, a=a: kl(q, (1 - a) * p + a * q)) for a in (0.0, 0.001, 0.1, 0.9)),
    *((Alpha(alpha=a), amari(a)) for a in (-1.5, -0.3, 0.1, 0.5, 0.7, 0.99, 1.3, 2.5)),
    (TV(), lambda p, q: 0.5 * (p - q).abs().sum(-1)),
    (Hellinger(), lambda p, q: (p.sqrt() - q.sqrt()).square().sum(-1)),
    (Pearson(), lambda p, q: ((p - q) ** 2 / q).sum(-1)),
    (Neyman(), lambda p, q: ((p - q) ** 2 / p).sum(-1)),
    (Triangular(), lambda p, q: ((p - q) ** 2 / (p + q)).sum(-1)),
]


def logits(scale: float, rows: int = 40, codes: int = 17) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    z_p, z_q = torch.randn(2, rows, codes, generator=g, dtype=torch.float64) * scale
    return z_p, z_q


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("divergence", "definition"), CASES, ids=lambda c: repr(c).partition(" at 0x")[0][:40]
)
def test_value_and_gradient_equal_float64_autograd_of_the_definition(
    divergence: Divergence, definition: Definition, scale: float
):
    z_phi, z_psi = logits(scale)
    z_psi.requires_grad_()
    value = definition(z_phi.softmax(-1), z_psi.softmax(-1))
    (grad_z,) = torch.autograd.grad(value.sum(), z_psi)
    log_p, log_q = z_phi.log_softmax(-1), z_psi.detach().log_softmax(-1)
    size = grad_z.abs().amax(-1, keepdim=True)
    torch.testing.assert_close(divergence.value(log_p, log_q), value.detach(), rtol=1e-11, atol=1e-12)
    assert ((divergence.grad(log_p, log_q) - grad_z) / size.clamp(min=1)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("divergence", "definition"), CASES, ids=lambda c: repr(c).partition(" at 0x")[0][:40]
)
def test_potential_is_the_derivative_in_q_up_to_a_constant(divergence: Divergence, definition: Definition):
    z_phi, z_psi = logits(1.0)
    q = z_psi.softmax(-1).requires_grad_()
    (u,) = torch.autograd.grad(definition(z_phi.softmax(-1), q).sum(), q)
    got = divergence.potential(z_phi.log_softmax(-1), z_psi.log_softmax(-1))
    centred = u - u.mean(-1, keepdim=True)
    torch.testing.assert_close(got - got.mean(-1, keepdim=True), centred, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("divergence", "definition"), CASES, ids=lambda c: repr(c).partition(" at 0x")[0][:40]
)
def test_student_gradient_projects_the_same_potential_with_other_weights(
    divergence: Divergence, definition: Definition
):
    z_phi, z_psi = logits(1.0)
    q = z_psi.softmax(-1).requires_grad_()
    (u,) = torch.autograd.grad(definition(z_phi.softmax(-1), q).sum(), q)
    log_w = z_phi.roll(1, 0).log_softmax(-1)
    w = log_w.exp()
    expected = w * (u - (w * u).sum(-1, keepdim=True))
    log_p, log_q = z_phi.log_softmax(-1), z_psi.log_softmax(-1)
    got = divergence.student_grad(log_p, log_q, log_w)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11 * float(expected.abs().max()))
    torch.testing.assert_close(
        divergence.student_grad(log_p, log_q, log_q), divergence.grad(log_p, log_q), rtol=1e-12, atol=1e-14
    )


def golden_log_probabilities(prefix: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    file = load_file(GOLDEN)
    wide = {key: t.double() for key, t in file.items() if t.is_floating_point()} | {"mask": file["mask"]}
    z_phi = wide["teacher_uncond"] + 2 * (wide["teacher_cond"] - wide["teacher_uncond"])
    t_phi, t_psi = {"t1": (1.0, 1.0), "temps": (1.3, 0.8)}[prefix]
    return (z_phi / t_phi).log_softmax(-1), (wide["aux_logits"] / t_psi).log_softmax(-1), wide


@pytest.mark.parametrize("prefix", ["t1", "temps"])
@pytest.mark.parametrize(
    ("key", "divergence"),
    [
        ("fkl", FKL()),
        ("rkl", RKL()),
        *((f"jeffreys_{b}", Jeffrey(beta=b)) for b in (-0.2, 0.0, 0.2, 0.5, 1.0)),
    ],
)
def test_gradients_equal_those_of_the_published_code(prefix: str, key: str, divergence: Divergence):
    log_p, log_q, golden = golden_log_probabilities(prefix)
    grad_z = divergence.grad(log_p, log_q)
    expected = golden[f"{prefix}.{key}.grad_all"]
    torch.testing.assert_close(grad_z, expected, rtol=0, atol=1e-6)
    mask = golden["mask"].flatten(1)
    masked = golden[f"{prefix}.{key}.grad_masked"]
    torch.testing.assert_close(grad_z * mask[..., None], masked, rtol=0, atol=1e-6)
    in_fp32 = divergence.grad(log_p.float(), log_q.float())
    torch.testing.assert_close(in_fp32.double(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("prefix", ["t1", "temps"])
def test_values_equal_the_golden_values(prefix: str):
    log_p, log_q, golden = golden_log_probabilities(prefix)
    fkl, rkl = golden[f"{prefix}.fkl_value"], golden[f"{prefix}.rkl_value"]
    torch.testing.assert_close(FKL().value(log_p, log_q), fkl, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(RKL().value(log_p, log_q), rkl, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        Jeffrey(beta=-0.2).value(log_p, log_q), 1.2 * fkl - 0.2 * rkl, rtol=1e-6, atol=1e-6
    )


def test_beta_counts_the_reverse_divergence():
    assert Jeffrey().beta == 0.2
    log_p, log_q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.8 * FKL().value(log_p, log_q) + 0.2 * RKL().value(log_p, log_q)
    torch.testing.assert_close(Jeffrey().value(log_p, log_q), expected)
    assert not math.isclose(FKL().value(log_p, log_q).item(), RKL().value(log_p, log_q).item(), rel_tol=0.01)
