"""Certainty-forcing against values of dParallel's code, and of CAP's; its masks; a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_distillers.certainty import Certainty, CertaintyPhase, certainty_loss, shares, views

GOLDEN = Path(__file__).parents[1] / "data" / "distillers"


def golden(name: str) -> Mapping[str, Tensor]:
    found = load_file(GOLDEN / f"{name}.safetensors")
    return {key: t.double() if t.dtype == torch.float32 else t for key, t in found.items()}


def of_rows(z: Tensor, x: Tensor, rows: Tensor, beta: float, temperature: float) -> Tensor:
    """The loss at some sites, all of one sample."""
    z, x = z.flatten(0, 1)[rows], x.flatten()[rows]
    right, one = z.argmax(-1) == x, torch.zeros_like(x)
    w, w_sure = shares(torch.ones_like(right), one, 1), beta * shares(right, one, 1)
    return certainty_loss(z, x, w, w_sure, temperature)


@pytest.mark.parametrize("empty", ["", "_b_empty"])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_loss_and_gradient_are_those_of_dparallel(family: str, empty: str) -> None:
    g = golden("dparallel")
    shift, beta = (1, 1.0) if family == "dream" else (0, 2.0)
    x, leaves, loss = g["input_ids"], [], torch.zeros((), dtype=torch.float64)
    for part in ("a", "b"):
        z = g[f"logits_{part}"].clone().requires_grad_()
        mask = g[f"mask_{part}"] & ~torch.tensor(bool(empty) and part == "b")
        seen = z[:, :-1] if shift else z
        rows = mask[:, shift:].flatten().nonzero().squeeze(1)
        loss = loss + of_rows(seen, x[:, shift:], rows, beta, 0.5)
        leaves.append(z)
    torch.testing.assert_close(loss.detach(), g[f"{family}{empty}.loss"], rtol=1e-9, atol=0)
    for part, grad in zip("ab", torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(grad, g[f"{family}{empty}.grad_{part}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "beta", "temperature"),
    [("cap.lambda2.0_T0.5", 2.0, 0.5), ("cap.lambda1.0_T1.0", 1.0, 1.0), ("cap_dfactory", 2.0, 1.0)],
)
def test_loss_and_gradient_are_those_of_cap(name: str, beta: float, temperature: float) -> None:
    g = golden("cap")
    z, labels = g["cap.logits"].clone(), g["cap.labels"]
    z.requires_grad_()
    rows = (labels != -100).flatten().nonzero().squeeze(1)
    loss = of_rows(z, labels, rows, beta, temperature)
    torch.testing.assert_close(loss.detach(), g[f"{name}.loss"], rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(grad, g[f"{name}.grad"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_views_are_those_of_dparallel(block: int) -> None:
    g = golden("dparallel")
    x, prompt = g["masking.input_ids"], int(g["masking.prompt_length"])
    valid = (torch.arange(x.shape[1]) >= prompt)[None]
    draw, begin = g[f"masking.block{block}.draw"], prompt + 32 * block
    u = torch.full(x.shape, 0.9, dtype=torch.float64)
    u[:, begin : begin + draw.shape[1]] = draw
    first, second, later = views(valid, 32, torch.tensor([(block + 0.5) / 3]), u, 0.5005)
    assert torch.equal(first, g[f"masking.block{block}.mask_a"])
    assert torch.equal(second, g[f"masking.block{block}.mask_b"])
    for part, name in ((first, "a"), (second, "b")):
        hidden = x.masked_fill(part | later, 126336)
        assert torch.equal(hidden, g[f"masking.block{block}.input_{name}"])


def test_every_block_has_sites_and_none_is_left_out() -> None:
    valid = torch.tensor([[False, True, True, True, True], [True, True, True, False, False]])
    found = set()
    for which in torch.linspace(0, 0.999, 7):
        first, second, later = views(valid, 2, which.expand(2), torch.rand(2, 5), 0.5)
        inside = first | second
        assert bool(inside.any(1).all())
        assert not bool((inside & later).any() | (~valid & (inside | later)).any())
        found.add(tuple(inside.flatten().tolist()))
    assert len(found) == 2
    (first, second, later) = views(valid, None, torch.rand(2), torch.rand(2, 5), 0.5)
    assert torch.equal(first | second, valid)
    assert not bool(later.any())


@pytest.mark.parametrize("complement", [True, False])
def test_the_gradient_is_that_of_the_mean_over_samples(complement: bool, tiny_teacher: Any) -> None:
    """Micro-batches or one batch, and by autograd of the formula."""
    options = Certainty(block=2, complement=complement, beta=0.7)
    objective = options.build(Ingredients(teacher=tiny_teacher, generator=OneStep(train_embeddings=True)))
    network = objective.p_theta.backbone.double()
    (phase,) = objective.phases()
    assert isinstance(phase, CertaintyPhase)
    x, c = torch.tensor([[0, 1, 2, 3], [4, 3, 1, 1], [2, 2, 0, 4]]), torch.tensor([0, 1, 1])
    draws = Draws(seed=3, phase="certainty", total=3)

    def gradient(sizes: tuple[int, ...]) -> tuple[list[Tensor], float]:
        network.zero_grad()
        start, loss = 0, 0.0
        for size in sizes:
            rows = slice(start, start + size)
            batch = Batch(conditions=c[rows], tokens=x[rows], rows=torch.arange(3)[rows])
            loss += float(phase.accumulate(batch, draws.slice(start, size))["loss"])
            start += size
        return [p.grad.clone() for p in network.parameters() if p.grad is not None], loss

    whole, loss = gradient((3,))
    parts, again = gradient((1, 2))
    assert loss == pytest.approx(again, rel=1e-12)
    valid = torch.ones(3, 4, dtype=torch.bool)
    first, second, later = views(valid, 2, draws.uniform("block"), draws.uniform("view", 4), options.ratio)
    network.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for part in (first, second) if complement else (first,):
        masked = part | later
        z = network.logits(x.masked_fill(masked, 5), c, mask_ratio=masked.double().mean(1))
        for row in range(3):
            rows = part[row].nonzero().squeeze(1)
            if len(rows):
                total = total + of_rows(z[row : row + 1], x[row : row + 1], rows, 0.7, 0.5) / 3
    total.backward()
    expected = [p.grad for p in network.parameters() if p.grad is not None]
    assert loss == pytest.approx(float(total.detach()), rel=1e-12)
    for one, two, three in zip(whole, parts, expected, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(two, three, rtol=1e-9, atol=1e-12)
