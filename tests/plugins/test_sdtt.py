"""SDTT against reference values, and its rounds."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.data.feeds import Feed
from dimo_core.draws import Draws
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.guidance import Constant
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_core.settings import Train
from dimo_core.tokens import TokenSpace
from dimo_distillers.sdtt import Sdtt, SdttObjective
from dimo_distillers.trajectory import Trajectory, times, trajectory
from dimo_divergences import FKL, RKL

CODES, MASK, CPU = 7, 7, torch.device("cpu")
KNOWN = load_file(Path(__file__).parents[1] / "data" / "distillers" / "sdtt.safetensors")
VARIANTS = [(grid, steps) for grid in ("consecutive", "endpoints", "released") for steps in (2, 3)]


def named(grid: str, steps: int) -> str:
    return grid if steps == 2 else f"{grid}{steps}"


def reference_target(variant: str, steps: int) -> tuple[Tensor, Tensor]:
    """The masked rows, and log-probabilities that the trajectory gives for them."""
    z = KNOWN["teacher_logits"].double()[..., :CODES].flatten(1, 2)
    decided_at = KNOWN[f"{variant}.revealed_at"].clamp(max=steps - 1)
    scores = [lambda rows, i=i: z[i, rows] for i in range(steps)]
    rows = (KNOWN["x_t"] == MASK).flatten().nonzero().squeeze(1)
    return rows, Trajectory(scores=scores, decided_at=decided_at).target(rows).log_softmax(-1)


@pytest.mark.parametrize(("grid", "steps"), VARIANTS)
def test_times_are_those_of_the_reference(grid: Any, steps: int) -> None:
    expected = KNOWN[f"{named(grid, steps)}.ts"]
    found = torch.stack(times(KNOWN["t"], float(KNOWN["dt"]), steps, grid))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("grid", "steps"), VARIANTS)
def test_targets_are_those_of_the_reference(grid: str, steps: int) -> None:
    rows, target = reference_target(named(grid, steps), steps)
    expected = KNOWN[f"{named(grid, steps)}.target"].flatten(0, 1)[rows, :CODES]
    torch.testing.assert_close(target, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("name", "divergence"), [("kl-bwd", RKL()), ("kl-fwd", FKL())])
@pytest.mark.parametrize(("grid", "steps"), VARIANTS)
def test_loss_and_gradient_are_those_of_the_reference(
    grid: str, steps: int, name: str, divergence: Any
) -> None:
    variant = named(grid, steps)
    rows, target = reference_target(variant, steps)
    log_p = KNOWN["student_logits"].double()[..., :CODES].flatten(0, 1)[rows].log_softmax(-1)
    loss = divergence.value(target, log_p).mean()
    torch.testing.assert_close(loss, KNOWN[f"{variant}.{name}.loss"], atol=0, rtol=1e-9)
    if f"{variant}.{name}.grad_student" in KNOWN:
        expected = KNOWN[f"{variant}.{name}.grad_student"].flatten(0, 1)[rows, :CODES]
        gradient = divergence.grad(target, log_p) / len(rows)
        torch.testing.assert_close(gradient, expected, atol=1e-9 * float(expected.abs().max()), rtol=0)


def test_dt_doubles_with_each_round_as_published() -> None:
    o = Sdtt(first_steps=1024, round_steps=10_000)
    found = [o.dt(10_000 * i) / (1 - 1e-5) ** -1 for i in range(8)]
    assert found == pytest.approx(KNOWN["dt_by_round"].tolist(), rel=1e-12)
    assert Sdtt(first_steps=4, round_steps=1).dt(9) == 0.5


SPACE = TokenSpace(length=4, codes=5, mask_id=5)


def test_a_trajectory_decides_what_an_ancestral_step_would() -> None:
    """Shares of decided sites, and that the last step leaves no site out."""
    count = 4000
    x_t = torch.full((count, 4), 5)
    rows = torch.arange(count * 4)
    t = torch.full((count,), 0.8)
    peaked = torch.eye(5)[torch.arange(count * 4) % 5] * 50
    seen = []

    def scores(x: Tensor, ratio: Tensor, i: int) -> Any:
        seen.append((x.clone(), ratio))
        return lambda rows: peaked[rows]

    draws = Draws(seed=0, phase="p", total=count)
    how: Any = {"schedule": "linear", "space": SPACE, "scores": scores, "draws": draws}
    found = trajectory(x_t, rows, times(t, 0.2, 3, "consecutive"), 0.2, **how)
    assert (x_t == 5).all()  # the student's state, which it has not been told of
    assert [0.8, 0.6, 0.4] == pytest.approx([float(ratio[0]) for _, ratio in seen])
    shares = [float((found.decided_at == i).float().mean()) for i in range(3)]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.02)
    for i, (x, _) in enumerate(seen):
        decided = found.decided_at.flatten() < i
        assert torch.equal(x.flatten()[decided], (rows % 5)[decided])
        assert (x.flatten()[~decided] == 5).all()


C = torch.tensor([0, 1, 1, 0, 1, 0])
X_0 = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(3))


class Rows(Feed):
    """The same six examples, again and again."""

    def read(self, start: int, count: int) -> Batch:
        rows = torch.arange(start, start + count) % 6
        return Batch(conditions=C[rows], tokens=X_0[rows])

    def valid(self, start: int, count: int) -> None:
        return None


def objective(teacher: Any, scale: float = 1.0, **options: Any) -> SdttObjective:
    return Sdtt(**options).build(
        Ingredients(teacher=teacher, generator=OneStep(), divergence=RKL(), guidance=Constant(scale=scale))
    )


def engine(teacher: Any, folder: Path, steps: int, **options: Any) -> Engine:
    made = objective(teacher, first_steps=4, round_steps=3, **options)
    train = Train(steps=steps, batch_size=6, log_every=1, checkpoint_every=2)
    return Engine(made, {"data": Rows()}, train, folder=Folder(str(folder)), seed=0, device=CPU)


def values(module: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("averaged", [False, True])
def test_after_each_round_the_student_is_the_teacher(
    tiny_teacher: Any, tmp_path: Path, averaged: bool
) -> None:
    e = engine(tiny_teacher, tmp_path, 7, averaged=averaged)
    made: Any = e.objective
    start = values(made.heir)
    for step in range(1, 8):
        before = values(made.heir)
        e.take_step()
        with e.states["generator"].averaged():
            average = values(made.student)
        learnt = average if averaged else values(made.student)
        assert not equal(values(made.student), average)
        if step % 3 == 0:
            assert equal(learnt, values(made.heir))
        else:
            assert equal(before, values(made.heir))
    assert not equal(start, values(made.heir))


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_has_the_teacher_of_its_round(tiny_teacher: Any, tmp_path: Path, stop: int) -> None:
    whole = engine(tiny_teacher, tmp_path / "whole", 7)
    whole.run()
    engine(tiny_teacher, tmp_path / "parts", stop).run()
    parts = engine(tiny_teacher, tmp_path / "parts", 7)
    assert parts.resume()
    parts.run()
    for mine, theirs in ((whole.objective, parts.objective),):
        assert equal(values(mine.student), values(theirs.student))  # type: ignore[attr-defined]
        assert equal(values(mine.heir), values(theirs.heir))  # type: ignore[attr-defined]


def test_only_the_first_rounds_teacher_is_guided(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher, scale=3.0, first_steps=4, round_steps=3)
    sizes = list[int]()
    made.heir.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for step in (0, 3):
        draws = Draws(seed=0, step=step, phase="sdtt", total=6)
        made.phases()[0].accumulate(Batch(conditions=C, tokens=X_0), draws)
    assert [12, 12, 6, 6] == sizes


def test_parts_of_a_batch_give_its_gradient(tiny_teacher: Any) -> None:
    found = []
    for parts in ((6,), (2, 4)):
        made, start = objective(tiny_teacher, first_steps=4), 0
        made.student.double()
        made.heir.double()
        with torch.no_grad():
            for p in made.student.parameters():
                p.add_(0.1 * torch.arange(p.numel()).view_as(p).sin())
        for count in parts:
            draws = Draws(seed=0, phase="sdtt", total=6).slice(start, count)
            part = slice(start, start + count)
            made.phases()[0].accumulate(Batch(conditions=C[part], tokens=X_0[part]), draws)
            start += count
        found.append({n: p.grad for n, p in made.student.named_parameters() if p.grad is not None})
    assert found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-14, rtol=1e-10)


def test_an_average_that_is_not_there_cannot_succeed() -> None:
    o = Sdtt()
    with pytest.raises(ValueError, match=r"'generator.ema' is 0"):
        attrs.evolve(o, averaged=True, generator=attrs.evolve(o.generator, ema=0.0))
