"""The format of what is not trained: cast in place, still shared, and the numbers that it leaves."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dimo_core.cli import main as dimo
from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.engine.frozen import cast_frozen, frozen_parameters
from dimo_core.engine.loop import Engine
from dimo_core.errors import ConfigError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator
from dimo_core.guidance import Constant
from dimo_core.jobs.distil import distill
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo, DimoObjective
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Ingredients, Optimisation
from dimo_core.registry import Registry, built
from dimo_core.settings import Train
from dimo_core.teacher import Teacher
from dimo_divergences import Jeffrey
from dimo_lora.parts import Lora, LoraDenoiser
from dimo_maskgit.teacher import MaskGit
from dimo_meissonic.teacher import Meissonic

CPU = torch.device("cpu")
TEACHERS: dict[str, Callable[..., Teacher]] = {"maskgit": MaskGit, "meissonic": Meissonic}
HALF: dict[str, Any] = {"precision": "bf16", "frozen_dtype": "bf16"}
each_teacher = pytest.mark.parametrize("made", TEACHERS.values(), ids=TEACHERS)


def objective(teacher: Teacher, *, adapters: bool = True) -> DimoObjective:
    """Both parts, as adapters or as whole networks."""
    how = Optimisation(lr=1e-2 if adapters else 1e-4, warmup=0, ema=0.5, ema_device="cpu")
    return Dimo(generator=how, auxiliary=how).build(
        Ingredients(
            teacher=teacher,
            generator=Lora(rank=2) if adapters else OneStep(),
            auxiliary=LoraDenoiser(rank=2, seed=1) if adapters else Denoiser(),
            divergence=Jeffrey(beta=0.2),
            guidance=Constant(scale=2.0),
        )
    )


def engine(teacher: Teacher, parts: DimoObjective, folder: Path, **train: Any) -> Engine:
    how = Train(**{"steps": 4, "batch_size": 4, **HALF, **train})
    plan = teacher.evaluation()
    assert plan is not None
    stream = built(Registry.discover(), "conditions", plan.conditions).open(teacher.conditioning, seed=0)
    feed = ConditionFeed(stream=stream, teacher=teacher, device=CPU)
    return Engine(parts, {"conditions": feed}, how, folder=Folder(str(folder)), seed=0, device=CPU)


def networks(parts: DimoObjective) -> tuple[nn.Module, ...]:
    return parts.step.p_phi, parts.step.p_theta, parts.step.p_psi


def base(network: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in network.named_parameters() if "lora_" not in name]


def cast(name: str, p: nn.Parameter) -> bool:
    """Matrices and kernels; no tables, positions, biases and gains."""
    return p.ndim > 1 and name.endswith("weight") and "tok_emb" not in name and "embeddings" not in name


def trained(parts: DimoObjective) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": p.detach().clone()
        for part, own in parts.parts().items()
        for name, p in own.module.named_parameters()
        if p.requires_grad
    }


@each_teacher
def test_a_shared_base_is_cast_once_and_the_wide_one_is_gone(made: Callable[[], Teacher]) -> None:
    parts = objective(made())
    wide = [weakref.ref(p.untyped_storage()) for n, p in parts.step.p_phi.named_parameters() if cast(n, p)]
    assert len(wide) > 5
    cast_frozen(parts, "bf16")
    assert [] == [one for one in wide if one() is not None]
    places = [{p.data_ptr() for p in base(network)} for network in networks(parts)]
    assert places[0] == places[1] == places[2]
    for name, p in parts.step.p_phi.named_parameters():
        assert p.dtype == (torch.bfloat16 if cast(name, p) else torch.float32)
        assert not p.requires_grad
    assert {torch.float32} == {tensor.dtype for tensor in trained(parts).values()}


@each_teacher
def test_whole_networks_keep_what_they_save_and_the_teacher_is_cast(made: Callable[[], Teacher]) -> None:
    parts = objective(made(), adapters=False)
    cast_frozen(parts, "bf16")
    phi, theta, psi = networks(parts)
    assert torch.bfloat16 in {p.dtype for p in phi.parameters()}
    assert {torch.float32} == {p.dtype for network in (theta, psi) for p in network.parameters()}
    assert any(not p.requires_grad for p in theta.parameters())  # its embeddings


@each_teacher
def test_what_is_kept_in_fp32_is_left_as_it_is(made: Callable[[], Teacher]) -> None:
    parts = objective(made())
    for network in networks(parts):
        network.double()
    cast_frozen(parts, "fp32")
    assert {torch.float64} == {p.dtype for p in frozen_parameters(parts)}


@each_teacher
def test_no_number_depends_on_the_format(made: Callable[[], Teacher], tmp_path: Path) -> None:
    """Autocast rounds to bf16 anyway what is kept in it."""
    found = []
    for dtype in ("fp32", "bf16"):
        teacher = made()
        parts = objective(teacher)
        before = trained(parts)
        loop = engine(teacher, parts, tmp_path / dtype, frozen_dtype=dtype)
        for _ in range(2):
            loop.take_step()
        found.append(trained(parts))
        assert not any(torch.equal(found[-1][name], before[name]) for name in before)
    assert [] == [name for name in found[0] if not torch.equal(found[0][name], found[1][name])]


@each_teacher
def test_a_resumed_run_ends_bitwise_like_one_that_was_not_stopped(
    made: Callable[[], Teacher], tmp_path: Path
) -> None:
    teacher = made()
    whole = objective(teacher)
    engine(teacher, whole, tmp_path, checkpoint_every=2, keep_last=9).run()
    Folder(str(tmp_path / "checkpoints")).remove("step_000004")
    fresh = made()
    again = objective(fresh)
    loop = engine(fresh, again, tmp_path)
    assert loop.resume()
    assert 2 == loop.step
    loop.run()
    first, second = trained(whole), trained(again)
    assert first.keys() == second.keys()
    assert [] == [name for name in first if not torch.equal(first[name], second[name])]


def test_a_run_with_a_base_in_half_precision_is_drawn_from_and_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own pictures and table are drawn in bf16; the folder goes with the base as it was read."""
    how = {"lr": 0.02, "warmup": 0}
    run = str(tmp_path / "run")
    result = distill(
        teacher="maskgit",
        generator={"name": "lora", "rank": 2},
        auxiliary={"name": "lora", "rank": 2},
        objective={"generator": how, "auxiliary": how},
        train={"steps": 2, "batch_size": 4, "sample_every": 1, **HALF},
        eval={"precision": "bf16", "samples": 20, "steps": [1], "batch_size": 20},
        out=run,
        device="cpu",
    )
    assert result.table is not None
    assert 2 == len([row for row in result.table.rows if row.name != "real data"])
    assert 3 == len(list((tmp_path / "run" / "samples").glob("step_*.png")))
    _, generator = load_generator(run + "/generator")
    assert {torch.float32} == {p.dtype for p in generator.parameters()}
    for name, tensor in result.generator.backbone.state_dict().items():
        assert torch.equal(tensor, generator.backbone.state_dict()[name])
    assert 0 == dimo(["sample", run, "-n", "2", "--out", str(tmp_path / "drawn"), "--device", "cpu"])
    assert 0 == dimo(["export", run, "--merge", "--out", str(tmp_path / "whole")])
    _, merged = load_generator(str(tmp_path / "whole"))
    c, x = torch.tensor([0, 1]), torch.zeros(2, generator.space.length, dtype=torch.long)
    with torch.no_grad():
        one, other = (g.backbone.logits(x, c, mask_ratio=torch.zeros(2)) for g in (generator, merged))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    capsys.readouterr()


def test_a_format_that_cannot_compute_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"needs precision bf16, got fp32: .* Set precision to bf16"):
        resolve_job({"teacher": "maskgit", "train": {"frozen_dtype": "bf16"}})
    with pytest.raises(ConfigError, match=r"needs eval\.precision bf16, got fp32: .* Add --eval\.precision"):
        resolve_job({"teacher": "maskgit", "train": HALF})
    assert (
        "bf16"
        == resolve_job(
            {"teacher": "maskgit", "train": HALF, "eval": {"precision": "bf16"}}
        ).train.frozen_dtype
    )


def test_weights_of_an_earlier_run_in_half_precision_are_not_taken_for_whole_ones(tmp_path: Path) -> None:
    teacher = MaskGit()
    teacher.network(share=True).bfloat16()
    with pytest.raises(UsageError, match=r"in half precision, from an earlier run .* a new teacher object"):
        distill(teacher=teacher, train={"steps": 1}, out=str(tmp_path / "run"), device="cpu")
