"""The losses as anybody may call them: against autograd and plain formulas, in float64."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from dimo_core.method.losses import denoising_loss, distance, entropy, generator_gradient, grad_z, logit_scale
from dimo_divergences import Jeffrey

K, V = 4, 5


def logits(seed: int) -> Tensor:
    return torch.randn(K, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


THETA, PHI, PSI = map(logits, range(3))


@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0])
def test_equation_4_is_the_derivative_of_the_divergence_in_z_psi(beta: float) -> None:
    z_psi, divergence = PSI.clone().requires_grad_(), Jeffrey(beta=beta)
    value = divergence.value(PHI.log_softmax(-1), z_psi.log_softmax(-1)).sum()
    (expected,) = torch.autograd.grad(value, z_psi)
    torch.testing.assert_close(grad_z(THETA, PHI, PSI, divergence=divergence), expected, atol=1e-14, rtol=0)


def test_the_students_jacobian_takes_the_same_potential_through_p_theta() -> None:
    p, q, g = (z.softmax(-1) for z in (PHI, PSI, THETA))
    expected = g * (-p / q - (g * (-p / q)).sum(-1, keepdim=True))  # forward KL: u = -p / q
    actual = grad_z(THETA, PHI, PSI, divergence=Jeffrey(beta=0.0), jacobian="student")
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=0)


def test_equation_3_weighs_each_row_and_divides_by_the_batch() -> None:
    w, divergence = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64), Jeffrey(beta=0.2)
    gradient = generator_gradient(THETA, PHI, PSI, w, divergence=divergence, batch=3)
    expected = w[:, None] * grad_z(THETA, PHI, PSI, divergence=divergence) / 3
    torch.testing.assert_close(gradient, expected, atol=1e-16, rtol=1e-15)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(K).double(), atol=1e-15, rtol=0)


def test_no_graph_reaches_teacher_and_auxiliary() -> None:
    leaves = [z.clone().requires_grad_() for z in (THETA, PHI, PSI)]
    gradient = generator_gradient(*leaves, torch.ones(K).double(), divergence=Jeffrey(), batch=1)
    assert not gradient.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_denoising_loss_sums_the_cross_entropy_of_smoothed_targets(smoothing: float) -> None:
    x = torch.tensor([0, 4, 2, 2])
    target = torch.nn.functional.one_hot(x, V).double() * (1 - smoothing) + smoothing / V
    expected = -(target * PSI.log_softmax(-1)).sum()
    torch.testing.assert_close(denoising_loss(PSI, x, label_smoothing=smoothing), expected)
    assert torch.float32 == denoising_loss(PSI.bfloat16(), x).dtype


def test_distance_is_the_mean_over_codes() -> None:
    a, b = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    torch.testing.assert_close(distance(a, b), torch.tensor([0.4]))


def test_entropy_and_scale_of_known_rows() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, 3.0]])
    torch.testing.assert_close(entropy(z[:1].log_softmax(-1)), torch.tensor([math.log(4)]))
    torch.testing.assert_close(logit_scale(z + 7), torch.tensor([0.0, 1.0]))


def test_a_script_of_ones_own_needs_no_engine_and_no_plugin_registry() -> None:
    code = (
        "import sys, dimo_core.method.losses; "
        "print([m for m in sys.modules if m.startswith(('dimo_core.engine', 'dimo_core.registry', "
        "'dimo_core.teacher', 'dimo_core.config'))])"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
