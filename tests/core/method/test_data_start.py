"""Objectives that start from data: against reference values, and what is masked and decided where."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.auxiliary import Targets
from dimo_core.backbone import Rows
from dimo_core.draws import Draws
from dimo_core.generator import Rollout
from dimo_core.guidance import Constant
from dimo_core.method.data_start import DimoData, Idlm
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import DimoObjective
from dimo_core.method.few_step import FewStep
from dimo_core.method.losses import generator_gradient
from dimo_core.method.one_step import OneStep
from dimo_core.method.process import draw_remask
from dimo_core.method.start import FromData
from dimo_core.objective import Batch, Ingredients
from dimo_divergences import RKL

GOLDEN = Path(__file__).parents[2] / "data" / "distillers"
CODES, MASK = 7, 7
B, L, V = 6, 4, 5
C = torch.tensor([0, 1, 1, 0, 1, 0])
DRAWS = Draws(seed=5, step=3, phase="p", total=B)
X_0 = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(3))


class Reference:
    """Logits at fixed states, of which rows are scored, with the weight of each sample."""

    def __init__(self, name: str, before: str, after: str, weight: str) -> None:
        self.all = load_file(GOLDEN / f"{name}.safetensors")
        x_t, self.x = self.all[before], self.all[after]
        self.rows: Rows = (self.x == MASK).flatten().nonzero().squeeze(1)
        self.w = (self.all[weight] if weight == "weight" else self.all[weight].reciprocal())[self.rows // 6]
        self.z = {kind: self.logits(f"{kind}_logits") for kind in ("student", "teacher", "aux")}
        unused = torch.zeros(3, 6)
        self.rollout = Rollout(x_init=x_t, hidden=torch.zeros(3, 6, 1), u=unused, decided=x_t != MASK)

    def logits(self, name: str) -> Tensor:
        return self.all[name].double()[..., :CODES].flatten(0, 1)[self.rows]

    def spread(self, gradient: Tensor) -> Tensor:
        """Rows among zeros, with the mask's column."""
        return (
            torch.zeros(18, 8, dtype=torch.float64)
            .index_put((self.rows[:, None], torch.arange(CODES)[None]), gradient)
            .view(3, 6, 8)
        )

    def close(self, actual: Tensor, name: str) -> None:
        expected = self.all[name]
        torch.testing.assert_close(actual, expected, atol=1e-9 * float(expected.abs().max()), rtol=0)


IDLM = ("idlm", "x_t", "x_t_prime", "t_prime")
DMMD = ("dmmd", "z_t", "z_s", "weight")


@pytest.mark.parametrize("which", [IDLM, DMMD], ids=["idlm", "dmmd"])
def test_the_generators_gradient_is_that_of_the_reference(which: tuple[str, ...]) -> None:
    known = Reference(*which)
    w = known.w * known.rollout.open(known.rows)
    z = known.z
    gradient = generator_gradient(
        z["student"], z["teacher"], z["aux"], w, divergence=RKL(), batch=3, jacobian="student"
    )
    known.close(known.spread(gradient), "generator.grad_student")


@pytest.mark.parametrize(
    ("which", "options", "name", "hard"),
    [
        (IDLM, {"soft": 1.0}, "auxiliary", None),
        (DMMD, {"soft": 1.0}, "auxiliary.soft", None),
        (DMMD, {}, "auxiliary.hard", "x_sampled"),
        (DMMD, {"soft": 1.0, "teacher_weight": 1.0}, "auxiliary.teacher", "auxiliary.soft"),
    ],
    ids=["idlm", "dmmd-soft", "dmmd-hard", "dmmd-teacher"],
)
def test_the_auxiliarys_loss_is_that_of_the_reference(
    tiny_teacher: Any, which: tuple[str, ...], options: Any, name: str, hard: str | None
) -> None:
    known, auxiliary = Reference(*which), Denoiser(**options).build(tiny_teacher)
    z_psi = known.z["aux"].clone().requires_grad_()
    token = (
        known.all["x_sampled"].flatten()[known.rows] if hard == "x_sampled" else torch.zeros_like(known.rows)
    )
    targets = Targets(
        x_theta=token,
        z_theta=known.rollout.settled(known.z["student"], known.rows),
        z_phi=known.z["teacher"] if "teacher_weight" in options else None,
        w=known.w,
    )
    loss = auxiliary.learn(z_psi, targets) / 3
    loss.backward()
    assert z_psi.grad is not None
    value, gradient = loss.detach(), known.spread(z_psi.grad)
    if hard == "auxiliary.soft":  # both terms were summed
        value = value - known.all["auxiliary.soft.loss"]
        gradient = gradient - known.all["auxiliary.soft.grad_aux"]
    known.close(value, f"{name}.loss")
    known.close(gradient, f"{name}.grad_aux")


def built(teacher: Any, options: DimoData, generator: Any = None, **auxiliary: Any) -> DimoObjective:
    made = options.build(
        Ingredients(
            teacher=teacher,
            generator=generator or OneStep(),
            auxiliary=Denoiser(**auxiliary),
            divergence=RKL(),
            guidance=Constant(scale=1.0),
        )
    )
    s = made.step
    for seed, network in enumerate((s.p_phi, s.p_theta, s.p_psi)):
        network.double()
        random = torch.Generator().manual_seed(seed)
        for p in network.parameters():
            p.data = torch.randn(p.shape, generator=random, dtype=torch.float64) / 2
    return made


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_idlm_is_its_two_sums(tiny_teacher: Any, soft: float) -> None:
    """The formulas of its docstring by loops over samples and sites, at the states that its phases draw."""
    made = built(tiny_teacher, Idlm(), soft=soft)
    s, seen = made.step, dict[str, Tensor]()
    for phase in made.phases():
        draws = attrs.evolve(DRAWS, phase=phase.name)
        batch = Batch(conditions=C, tokens=X_0)
        remask = draw_remask(L, "linear", "bernoulli", draws)
        with torch.enable_grad():
            rollout = s.start(s.p_theta, batch, draws, remask)
        z = s.p_theta.head(rollout.hidden)
        x_t, mask = rollout.x_init, tiny_teacher.tokens.mask_id
        assert torch.equal(x_t[x_t != mask], X_0[x_t != mask])
        assert (x_t == mask).any()
        assert (x_t != mask).any()
        p = z.softmax(-1)
        drawn = rollout.x_theta(z.flatten(0, 1), torch.arange(B * L)).view(B, L)
        x = drawn.masked_fill(remask.masked, mask)
        with torch.no_grad():
            log_phi = s.p_phi.logits(x, C, mask_ratio=remask.ratio).log_softmax(-1)
        log_psi = s.p_psi.head(s.p_psi(x, C, mask_ratio=remask.ratio)).log_softmax(-1)
        total = torch.zeros((), dtype=torch.float64)
        for b in range(B):
            for i in range(L):
                if not remask.masked[b, i]:
                    continue
                fixed, w = bool(x_t[b, i] != mask), 1 / remask.ratio[b].double()
                if phase.name == "generator" and not fixed:
                    total = total + w * (p[b, i] * (log_psi - log_phi)[b, i].detach()).sum() / B
                elif phase.name != "generator":
                    target = p[b, i].detach()
                    if fixed or not soft:
                        target = torch.nn.functional.one_hot(drawn[b, i], V).double()
                    total = total - w * (target * log_psi[b, i]).sum() / B
        part = s.p_theta if phase.name == "generator" else s.p_psi
        trained = [q for q in part.parameters() if q.requires_grad]
        expected = torch.autograd.grad(total, trained)
        for q in trained:
            q.grad = None
        logs = phase.accumulate(batch, draws)
        seen |= logs
        for q, e in zip(trained, expected, strict=True):
            torch.testing.assert_close(q.grad, e, atol=1e-12, rtol=1e-8)
        if phase.name != "generator":
            torch.testing.assert_close(logs["auxiliary_loss"], total.detach(), atol=1e-12, rtol=1e-9)
    assert seen


@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
def test_what_is_visible_stays_visible_with_a_horizon(masking: Any) -> None:
    draws = Draws(seed=1, phase="p", total=200)
    remask = draw_remask(L, "arccos", masking, draws)
    start = FromData(schedule="arccos", masking=masking, horizon=0.25)
    ratio, masked = start.draw(L, draws)
    assert not (remask.masked & ~masked).any()
    assert (ratio >= remask.ratio).all()
    assert (masked & ~remask.masked).any()
    fresh = FromData(schedule="arccos", masking=masking).draw(L, draws)[1]
    assert (remask.masked & ~fresh).any()


def test_decided_sites_reach_no_weight_of_the_generator(tiny_teacher: Any) -> None:
    """With everything visible the generator has nothing to learn."""
    made = built(tiny_teacher, DimoData(rollout="fresh", ratio_bounds=(0.0, 0.0)))
    s = made.step
    s_start = FromData(schedule="linear", masking="bernoulli", bounds=(0.0, 0.0))
    whole = attrs.evolve(s, start=lambda *a: attrs.evolve(s_start(*a), decided=torch.ones(B, L).bool()))
    phase = DimoObjective(made.options, whole).phases()[0]
    phase.accumulate(Batch(conditions=C, tokens=X_0), DRAWS)
    assert not any(p.grad is not None and p.grad.any() for p in s.p_theta.parameters())


def test_few_steps_train_from_data_too(tiny_teacher: Any) -> None:
    made = built(tiny_teacher, DimoData(), FewStep(steps=3))
    made.phases()[0].accumulate(Batch(conditions=C, tokens=X_0), DRAWS)
    assert any(p.grad is not None and p.grad.any() for p in made.step.p_theta.parameters())
