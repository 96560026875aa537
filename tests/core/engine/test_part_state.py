"""One part at work, by values: schedule, AdamW, clipping, averages, blocked updates, and its state."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dimo_core.engine import part_state
from dimo_core.engine.optimizers import moments_bytes
from dimo_core.engine.part_state import PartState, ema_rate, lr_factor
from dimo_core.errors import CheckpointError, MissingLibraryError
from dimo_core.objective import Optimisation, Part

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "schedules.json").read_text())
GO, BLOCKED = torch.tensor(0.0), torch.tensor(1.0)
MOVING, FROZEN = torch.tensor(False), torch.tensor(True)

OPTIONS: dict[str, Any] = {"lr": 0.1, "warmup": 0, "clip": None}
GIVEN = {"0.weight": "decayed", "0.bias": "other", "1.weight": "other", "2.weight": "other"}
"""The trained parameters of ``Small``; its ``fixed`` is not trained."""


class Small(nn.Sequential):
    """A matrix, a bias, an embedding and a norm in float64, a parameter that is not trained, and a buffer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 3), nn.Embedding(4, 2), nn.LayerNorm(3, bias=False))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))
        for i, p in enumerate(self.parameters()):
            p.data = numbers(i, p.shape)


def numbers(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(**options: Any) -> PartState:
    return PartState("the part", Part(module=Small(), optimisation=Optimisation(**{**OPTIONS, **options})))


def give(s: PartState, step: int) -> dict[str, Tensor]:
    """Gradients that a step finds."""
    for i, p in enumerate(s.trained.values()):
        p.grad = numbers(100 * step + i, p.shape)
    return {n: p.grad.clone() for n, p in s.trained.items() if p.grad is not None}


def take(s: PartState, steps: int, first: int = 0, of: int = 9) -> None:
    for k in range(first, first + steps):
        give(s, k)
        s.update(k, of, GO)
        s.follow(k, MOVING)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in tensors.items()}


def assert_equal(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> None:
    assert expected.keys() == actual.keys()
    assert [] == [n for n in expected if not torch.equal(expected[n], actual[n])]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": 0, "decay": "constant"}, [1, 1, 1, 1, 1, 1, 1]),
        ({"warmup": 4, "decay": "constant"}, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ({"warmup": 2, "decay": "linear"}, [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        ({"warmup": 0, "decay": "linear", "lr_end": 0.4}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        ({"warmup": 2, "decay": "cosine"}, [0.5, 1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ({"warmup": 4, "decay": "cosine", "lr_end": 0.2}, [0.25, 0.5, 0.75, 1, 1, 0.6, 0.2]),
        ({"warmup": 5, "decay": "linear", "lr_end": 0.1}, [0.2, 0.4, 0.6, 0.8, 1, 1, 0.1]),
        ({"warmup": 6, "decay": "linear", "lr_end": 0.1}, [*(k / 6 for k in range(1, 7)), 0.1]),
        ({"warmup": 9, "decay": "cosine", "lr_end": 0.1}, [k / 9 for k in range(1, 8)]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_asked(options: dict[str, Any], expected: list[float]) -> None:
    """To the peak at the last step of the warm-up, and to ``lr_end`` at the last step of all."""
    factors = [lr_factor(step, 7, Optimisation(**options)) for step in range(7)]
    assert factors == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("golden", "warmup"), [("warmup_linear_1000", 1000), ("warmup_15000", 15000)])
def test_the_nth_step_of_the_warm_up_equals_the_golden_values(golden: str, warmup: int) -> None:
    """The source counts its steps from 1 where it warms up."""
    o = Optimisation(warmup=warmup)
    values = {int(k): share for k, share in GOLDEN["embedding_noise_schedule"][golden].items() if int(k) > 0}
    assert {k: lr_factor(k - 1, 20_000, o) for k in values} == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("decay", GOLDEN["ema_rate"])
def test_the_rate_of_the_average_equals_the_golden_values(decay: str) -> None:
    golden = GOLDEN["ema_rate"][decay]
    assert {k: ema_rate(int(k), float(decay)) for k in golden} == pytest.approx(golden, rel=1e-12)


def test_updates_are_those_of_adamw_computed_by_hand() -> None:
    """Only the matrix is decayed; each step has its own rate; moments are corrected for their start."""
    lr, beta1, beta2, eps, decay = 0.1, 0.7, 0.9, 1e-3, 0.3
    s = state(
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay, warmup=2, decay="linear", lr_end=0.5
    )
    assert list(s.trained) == list(GIVEN)
    fixed = s.module.get_parameter("fixed").clone()
    theta, factors = copies(s.trained), [0.5, 1, 1, 0.75, 0.5]
    m = {n: torch.zeros_like(t) for n, t in theta.items()}
    v = {n: torch.zeros_like(t) for n, t in theta.items()}
    for step, factor in enumerate(factors):
        for n, g in give(s, step).items():
            m[n] = beta1 * m[n] + (1 - beta1) * g
            v[n] = beta2 * v[n] + (1 - beta2) * g**2
            m_hat, v_hat = m[n] / (1 - beta1 ** (step + 1)), v[n] / (1 - beta2 ** (step + 1))
            shrunk = theta[n] * (1 - lr * factor * (decay if GIVEN[n] == "decayed" else 0))
            theta[n] = shrunk - lr * factor * m_hat / (v_hat.sqrt() + eps)
        s.update(step, 5, GO)
        for n in theta:
            torch.testing.assert_close(s.trained[n].detach(), theta[n], rtol=1e-12, atol=1e-12)
    assert torch.equal(s.module.get_parameter("fixed"), fixed)


def test_the_optimiser_is_fused_where_it_can_be() -> None:
    """Only then may ``blocked`` stay on the device; the meta device has none that is fused."""
    assert state().optimizer.defaults["fused"]
    half = Small()
    half[0].to("meta")
    s = PartState("the part", Part(module=half, optimisation=Optimisation(**OPTIONS)))
    assert not s.optimizer.defaults["fused"]


def test_the_optimiser_holds_what_is_trained_and_nothing_else() -> None:
    s = state()
    held = [p for group in s.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in s.trained.values()}
    assert len(held) == len(s.trained)


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_gradients_are_clipped_and_the_norm_is_that_before(clip: float | None) -> None:
    s = state(clip=clip)
    before = give(s, 0)
    norm = math.sqrt(sum(g.square().sum().item() for g in before.values()))
    assert s.clip().item() == pytest.approx(norm, rel=1e-12)
    scale = 0.5 / norm if clip == 0.5 else 1.0
    for n, p in s.trained.items():
        torch.testing.assert_close(p.grad, before[n] * scale, rtol=1e-5, atol=0)


def test_gradients_are_forgotten() -> None:
    s = state()
    give(s, 0)
    s.zero()
    assert all(p.grad is None for p in s.trained.values())


def test_a_blocked_update_leaves_no_trace() -> None:
    s, other = state(weight_decay=0.3), state(weight_decay=0.3)
    for step, blocked in enumerate((BLOCKED, GO, BLOCKED, GO)):
        before = copies(s.trained)
        give(s, step)
        s.update(step, 9, blocked)
        if blocked:
            assert_equal(before, s.trained)
        else:
            give(other, step)
            other.update(step, 9, GO)
    assert_equal(other.trained, s.trained)
    assert_equal(other.state()["the part.optimizer"], s.state()["the part.optimizer"])


def test_a_fused_update_does_not_read_whether_it_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator the host would have to wait for it."""
    s = state()
    give(s, 0)
    before = copies(s.trained)
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__bool__", lambda _: pytest.fail("a tensor was read"))
        s.update(0, 9, GO)
    assert not any(torch.equal(before[n], p) for n, p in s.trained.items())


def test_an_optimiser_that_is_not_fused_is_blocked_too() -> None:
    module = Small().to("meta")
    s = PartState("the part", Part(module=module, optimisation=Optimisation(**OPTIONS)))
    for p in s.trained.values():
        p.grad = torch.empty_like(p)
    s.update(0, 9, BLOCKED)
    assert not s.optimizer.state
    s.update(0, 9, GO)
    assert len(s.optimizer.state) == len(GIVEN)
    assert s.optimizer.param_groups[0]["lr"] == 0.1


def test_the_average_follows_the_weights() -> None:
    """Slowly at first, by min(ema, (1 + k) / (10 + k)); it starts as a copy of them."""
    s = state(ema=0.3)
    average, rates = copies(s.trained), [0.1, 2 / 11, 0.25, 0.3, 0.3]
    assert_equal(average, s.average)
    for step, rate in enumerate(rates):
        give(s, step)
        s.update(step, 9, GO)
        assert_equal(average, s.average)
        s.follow(step, FROZEN)
        assert_equal(average, s.average)
        s.follow(step, MOVING)
        for n, p in s.trained.items():
            expected = rate * average[n] + (1 - rate) * p.detach()
            torch.testing.assert_close(s.average[n], expected, rtol=1e-6, atol=1e-7)
        average = copies(s.average)
    assert not any(t.requires_grad for t in s.average.values())


def test_without_an_average_nothing_follows() -> None:
    s = state(ema=0.0)
    take(s, 2)
    assert s.average == {}
    assert s.state().keys() == {"the part", "the part.optimizer"}
    before = copies(s.trained)
    with s.averaged():
        assert_equal(before, s.trained)
    assert_equal(before, s.trained)


def test_the_average_is_used_within_and_the_weights_come_back_even_after_an_error() -> None:
    s = state(ema=0.9)
    take(s, 3)
    before, average = copies(s.trained), copies(s.average)
    with s.averaged():
        assert_equal(average, s.trained)
        for p in s.trained.values():
            p.data.zero_()
    assert_equal(before, s.trained)
    assert_equal(average, s.average)
    with pytest.raises(ZeroDivisionError), s.averaged():
        raise ZeroDivisionError
    assert_equal(before, s.trained)


def test_gradients_can_be_taken_with_the_average() -> None:
    s = state(ema=0.9)
    with s.averaged():
        assert torch.is_grad_enabled()
        s.module[0](torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    assert s.trained["0.weight"].grad is not None


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_part_that_was_loaded_goes_on_bitwise(ema: float) -> None:
    options = {"ema": ema, "weight_decay": 0.3, "warmup": 2, "decay": "cosine"}
    whole, stopped, resumed = (state(**options) for _ in range(3))
    take(whole, 6)
    take(stopped, 4)
    stopped.module.get_buffer("seen").fill_(7)
    stopped.module.get_parameter("fixed").data.fill_(8)
    files = {file: copies(tensors) for file, tensors in stopped.state().items()}
    names = {"the part", "the part.optimizer", *(["the part.average"] if ema else [])}
    assert files.keys() == names
    moments = {f"{n}.{key}" for n in GIVEN for key in ("step", "exp_avg", "exp_avg_sq")}
    assert files["the part.optimizer"].keys() == moments
    assert files["the part"].keys() == {*GIVEN, "fixed", "seen"}
    assert_equal(stopped.average, files.get("the part.average", {}))
    resumed.load(files)
    for name in names:
        assert_equal(files[name], resumed.state()[name])
    take(resumed, 2, first=4)
    whole.module.get_buffer("seen").fill_(7)
    whole.module.get_parameter("fixed").data.fill_(8)
    for name in names:
        assert_equal(whole.state()[name], resumed.state()[name])
    assert_equal(whole.average, resumed.average)


def test_what_was_loaded_is_no_alias_of_the_average_in_the_files() -> None:
    stopped, resumed = state(ema=0.5), state(ema=0.5)
    take(stopped, 2)
    files = {file: copies(tensors) for file, tensors in stopped.state().items()}
    kept = copies(files["the part.average"])
    resumed.load(files)
    take(resumed, 1, first=2)
    assert_equal(kept, files["the part.average"])


def test_a_part_that_took_no_step_yet_can_be_loaded() -> None:
    first, second = state(ema=0.9), state(ema=0.9)
    files = first.state()
    assert files["the part.optimizer"] == {}
    second.load(files)
    assert not second.optimizer.state
    take(first, 2)
    take(second, 2)
    assert_equal(first.trained, second.trained)


@pytest.mark.parametrize(
    "change",
    [
        {"the part.average": None},
        {"the part.average": "0.weight"},
        {"the part.optimizer": "0.weight.exp_avg"},
        {"the part.optimizer": "2.weight.step"},
    ],
)
def test_the_state_of_another_part_is_refused(change: dict[str, str | None]) -> None:
    s = state(ema=0.9)
    take(s, 1)
    files: dict[str, Any] = {file: dict(tensors) for file, tensors in s.state().items()}
    for file, name in change.items():
        if name is None:
            del files[file]
        else:
            del files[file][name]
    with pytest.raises(CheckpointError, match=r"part 'the part' was written by a run that trained or aver"):
        state(ema=0.9).load(files)


def test_an_average_that_nobody_keeps_is_refused() -> None:
    s = state(ema=0.9)
    take(s, 1)
    with pytest.raises(CheckpointError, match="its options differ from those of this run"):
        state(ema=0.0).load(s.state())


def test_weights_of_another_shape_are_refused_and_named() -> None:
    s = state()
    files = {**s.state(), "the part": {**s.module.state_dict(), "0.bias": torch.zeros(4)}}
    with pytest.raises(CheckpointError, match="the checkpoint of part 'the part'"):
        s.load(files)
    with pytest.raises(CheckpointError, match="the checkpoint of part 'the part'"):
        s.load({})


def test_an_average_on_the_cpu_is_the_same_bit_by_bit() -> None:
    near, far = state(ema=0.9), state(ema=0.9, ema_device="cpu")
    for s in (near, far):
        take(s, 3)
    assert all(torch.equal(average, far.average[n]) for n, average in near.average.items())
    assert {torch.device("cpu")} == {average.device for average in far.average.values()}


def test_an_average_that_follows_a_device_is_moved_when_its_weights_have_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As from CUDA: what is copied without waiting is looked at when needed, with the numbers of then."""
    asked: list[str] = []

    class Event:
        def record(self) -> None:
            asked.append("record")

        def synchronize(self) -> None:
            asked.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(part_state, "page_locked", torch.empty_like)
    near, far = state(ema=0.9), state(ema=0.9, ema_device="cpu")
    far._later = True
    take(near, 3)
    take(far, 3)
    assert ["record", "wait", "record", "wait", "record"] == asked
    assert not all(torch.equal(average, far.average[n]) for n, average in near.average.items())
    with far.averaged():
        held = copies(far.trained)
    assert all(torch.equal(average, held[n]) for n, average in near.average.items())
    take(far, 1, 3)
    saved = {file: copies(tensors) for file, tensors in far.state().items()}
    take(near, 1, 3)
    assert all(torch.equal(average, saved["the part.average"][n]) for n, average in near.average.items())
    give(far, 4)
    far.follow(4, FROZEN)
    assert torch.equal(far.state()["the part.average"]["0.weight"], saved["the part.average"]["0.weight"])


class Coded(torch.Tensor):
    """A tensor that is made of others, as compressed moments are: here halves that add up to it."""

    @staticmethod
    def __new__(cls, one: Tensor, other: Tensor) -> "Coded":
        made: Coded = Tensor._make_wrapper_subclass(cls, one.shape, dtype=one.dtype)  # type: ignore[attr-defined]
        made.one, made.other = one, other  # type: ignore[attr-defined]
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["one", "other"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(func)


class Compressing(torch.optim.Optimizer):
    """Momentum with a compressed buffer, a rate that is a tensor, and no fused kernel."""

    def __init__(self, groups: Any, betas: Any, eps: float) -> None:
        super().__init__(groups, {"lr": torch.tensor(0.0)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.state[p]
                if not kept:
                    kept["step"] = torch.tensor(0.0)
                    kept["exp_avg"] = Coded(torch.zeros_like(p), torch.zeros_like(p))
                kept["step"] += 1
                moment = kept["exp_avg"]
                whole = 0.9 * (moment.one + moment.other) + p.grad
                moment.one.copy_(whole / 4)
                moment.other.copy_(whole - whole / 4)
                p.sub_(group["lr"] * whole)


@pytest.fixture
def torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("torchao.optim")
    module.AdamW8bit = Compressing
    monkeypatch.setitem(sys.modules, "torchao.optim", module)


@pytest.mark.usefixtures("torchao")
def test_compressed_moments_are_saved_as_plain_tensors_and_go_on_bitwise() -> None:
    whole, first, again = (state(optimizer="adamw-8bit") for _ in range(3))
    take(whole, 6)
    take(first, 3)
    saved = {file: copies(tensors) for file, tensors in first.state().items()}
    moments = saved["the part.optimizer"]
    assert {f"{n}.{key}" for n in GIVEN for key in ("step", "exp_avg.one", "exp_avg.other")} == set(moments)
    assert {torch.Tensor} == {type(tensor) for tensor in moments.values()}
    again.load(saved)
    take(again, 3, 3)
    assert all(torch.equal(p, again.trained[n]) for n, p in whole.trained.items())
    before = copies(again.trained)
    give(again, 9)
    again.update(9, 9, BLOCKED)
    assert all(torch.equal(p, again.trained[n]) for n, p in before.items())
    with pytest.raises(CheckpointError, match="written with another optimizer"):
        state(optimizer="adamw-8bit").load({**saved, "the part.optimizer": {"0.weight.step": GO}})


def test_a_missing_torchao_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchao", "torchao.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match=r'torchao.*pip install "dimo\[8bit\]"; or use') as told:
        state(optimizer="adamw-8bit")
    assert 1 == len(str(told.value).splitlines())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_moments_of_eight_bits_take_what_is_planned_and_go_on_bitwise() -> None:
    """Torchao's own: it compiles its step, which takes a minute."""
    pytest.importorskip("torchao.optim")

    def made() -> PartState:
        torch.manual_seed(0)
        how = Optimisation(lr=0.1, warmup=0, optimizer="adamw-8bit")
        module = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128))
        return PartState("it", Part(module=module, optimisation=how))

    whole, first, again = made(), made(), made()
    for s, steps in ((whole, 4), (first, 2)):
        for k in range(steps):
            for i, p in enumerate(s.trained.values()):
                p.grad = numbers(100 * k + i, p.shape).float()
            s.update(k, 4, GO)
    saved = {file: copies(tensors) for file, tensors in first.state().items()}
    moments = saved["it.optimizer"].items()
    sizes = {n: sum(t.nbytes for m, t in moments if m.startswith(f"{n}.exp")) for n in whole.trained}
    assert {n: moments_bytes(p, whole.options) for n, p in whole.trained.items()} == sizes
    assert 2 * (64 * 128 + 4 * 32 + 1024) == sizes["0.weight"]
    again.load(saved)
    for k in (2, 3):
        for i, p in enumerate(again.trained.values()):
            p.grad = numbers(100 * k + i, p.shape).float()
        again.update(k, 4, GO)
    assert all(torch.equal(p, again.trained[n]) for n, p in whole.trained.items())
