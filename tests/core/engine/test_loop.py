"""The loop: exact resume, micro-batches, signals, non-finite gradients."""

import json
import math
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.data.feeds import ConditionFeed
from dimo_core.engine.checkpoint import complete_steps, step_name
from dimo_core.engine.finite import FiniteGuard
from dimo_core.engine.loop import Action, Engine
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.engine.part_state import PartState
from dimo_core.errors import CheckpointError, Interrupted, NumericalError
from dimo_core.files.folder import Folder
from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Ingredients, Optimisation
from dimo_core.settings import Train
from dimo_divergences import Jeffrey
from dimo_prompts.labels import Labels

CPU = torch.device("cpu")


def engine(
    teacher: Any, folder: Path | str, *, lr: float = 1e-2, dimo: Mapping[str, Any] = {}, **train: Any
) -> Engine:
    optimisation = Optimisation(lr=lr, warmup=2, ema=0.9)
    options = Dimo(**{"generator": optimisation, "auxiliary": optimisation, **dimo})
    ingredients = Ingredients(
        teacher=teacher,
        generator=OneStep(),
        auxiliary=Denoiser(),
        divergence=Jeffrey(beta=0.2),
        guidance=Constant(scale=1.5),
    )
    stream = Labels().open(teacher.conditioning, seed=3)
    return Engine(
        options.build(ingredients),
        {"conditions": ConditionFeed(stream=stream, teacher=teacher, device=CPU)},
        Train(
            **{"steps": 12, "batch_size": 8, "log_every": 1, "checkpoint_every": 3, "keep_last": 9, **train}
        ),
        folder=Folder(str(folder)),
        seed=3,
        device=CPU,
    )


def tensors(e: Engine) -> dict[str, Tensor]:
    return {
        f"{file}/{name}": tensor.clone()
        for state in e.states.values()
        for file, part in state.state().items()
        for name, tensor in part.items()
    }


def assert_bitwise_equal(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> None:
    assert expected.keys() == actual.keys()
    different = [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert different == []


CHOICES = [
    {},
    {"rollout": "fresh", "auxiliary_steps": 2},
    {"dropout": True, "score_dropout": True, "masking": "bernoulli", "weight": "dmd"},
]


@pytest.mark.parametrize("dimo", CHOICES)
def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(
    tiny_teacher: Any, tmp_path: Path, dimo: dict[str, Any]
) -> None:
    whole = engine(tiny_teacher, tmp_path / "whole", dimo=dimo)
    whole.run()
    stopped = engine(tiny_teacher, tmp_path / "parts", dimo=dimo, steps=7)
    stopped.run()  # its newest checkpoint is that of step 7; pretend that it died before writing it
    stopped.checkpoints.remove(step_name(7))
    resumed = engine(tiny_teacher, tmp_path / "parts", dimo=dimo)
    assert resumed.resume()
    assert resumed.step == 6
    resumed.run()
    assert_bitwise_equal(tensors(whole), tensors(resumed))


def test_the_log_of_a_resumed_run_has_each_step_once(tiny_teacher: Any, tmp_path: Path) -> None:
    engine(tiny_teacher, tmp_path, steps=8).run()
    Folder(str(tmp_path)).remove("checkpoints", step_name(8))
    resumed = engine(tiny_teacher, tmp_path)
    resumed.resume()
    resumed.run()
    assert list(range(1, 13)) == [line["step"] for line in read_metrics(Folder(str(tmp_path)))]


@pytest.fixture
def remote() -> Iterator[str]:
    yield "memory://test-loop/run"
    Folder("memory://test-loop").remove()


def appended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are appended to files from now on."""
    texts = list[str]()
    whole = Folder.append
    monkeypatch.setattr(Folder, "append", lambda *a: (texts.append(a[2]), whole(*a))[1])
    return texts


def test_a_remote_log_is_written_at_its_beginning_and_at_checkpoints(
    tiny_teacher: Any, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimo_core.files.log.LATE", math.inf)
    texts = appended(monkeypatch)
    seen = list[int]()

    def look(step: int) -> dict[str, float]:
        seen.append(len(read_metrics(Folder(remote))))
        return {}

    engine(tiny_teacher, remote, checkpoint_every=6).run([Action(every=10, run=look)])
    assert [1, 5, 3, 3] == [text.count("\n") for text in texts]  # step 1, checkpoint, action, checkpoint
    assert [9] == seen
    assert list(range(1, 13)) == [line["step"] for line in read_metrics(Folder(remote))]


def test_no_line_of_a_remote_log_is_lost_by_an_error(
    tiny_teacher: Any, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimo_core.files.log.LATE", math.inf)

    def sink(step: int, values: Mapping[str, float]) -> None:
        if step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine(tiny_teacher, remote, checkpoint_every=6).run(sink=sink)
    assert [1, 2, 3, 4, 5] == [line["step"] for line in read_metrics(Folder(remote))]


@pytest.mark.parametrize("dimo", [{}, {"rollout": "fresh"}, {"masking": "bernoulli"}])
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    tiny_teacher: Any, tmp_path: Path, dimo: dict[str, Any]
) -> None:
    one, four = (engine(tiny_teacher, tmp_path / str(n), dimo=dimo, steps=1, accumulate=n) for n in (1, 4))
    for e in (one, four):
        e.run()
    for a, b in zip(one.states.values(), four.states.values(), strict=True):
        for name, p in a.trained.items():
            torch.testing.assert_close(b.trained[name].grad, p.grad, atol=1e-5, rtol=1e-4)
    logs = [read_metrics(e.folder)[0] for e in (one, four)]
    for name in ("divergence", "entropy_theta", "auxiliary_loss"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4)


def test_training_changes_generator_and_auxiliary_but_no_frozen_parameter(
    tiny_teacher: Any, tmp_path: Path
) -> None:
    e = engine(tiny_teacher, tmp_path)
    before = {name: state.module.state_dict() for name, state in e.states.items()}
    before = {name: {k: v.clone() for k, v in d.items()} for name, d in before.items()}
    p_phi = {k: v.clone() for k, v in e.objective.frozen()["teacher"].state_dict().items()}
    e.run()
    for name, state in e.states.items():
        after = state.module.state_dict()
        assert torch.equal(before[name]["backbone.tok_emb.weight"], after["backbone.tok_emb.weight"])
        assert not torch.equal(before[name]["backbone.out.weight"], after["backbone.out.weight"])
    for k, v in e.objective.frozen()["teacher"].state_dict().items():
        assert torch.equal(p_phi[k], v)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_run_continues_bitwise(
    tiny_teacher: Any, tmp_path: Path, number: signal.Signals
) -> None:
    whole = engine(tiny_teacher, tmp_path / "whole")
    whole.run()

    def interrupt(step: int) -> dict[str, float]:
        if step == 5:
            os.kill(os.getpid(), number)
        return {}

    stopped = engine(tiny_teacher, tmp_path / "parts")
    with pytest.raises(Interrupted, match=f"{number.name} after step 5; state saved"):
        stopped.run([Action(every=1, run=interrupt)])
    resumed = engine(tiny_teacher, tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 5
    resumed.run()
    assert_bitwise_equal(tensors(whole), tensors(resumed))


def test_a_damaged_checkpoint_is_passed_over_and_named(tiny_teacher: Any, tmp_path: Path) -> None:
    e = engine(tiny_teacher, tmp_path)
    e.run()
    newest = tmp_path / "checkpoints" / step_name(12) / "generator.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(data)
    resumed = engine(tiny_teacher, tmp_path)
    resumed.resume()
    assert resumed.step == 9


def harmed(manifest: dict[str, Any], harm: str) -> dict[str, Any]:
    """The manifest without an entry, or with another value of it."""
    if harm.startswith("no "):
        return {key: value for key, value in manifest.items() if key != harm[3:]}
    changes: dict[str, Any] = {"step": 11, "skipped": 7, "metrics": None, "sha256": {}}
    return {**manifest, harm: changes[harm]}


@pytest.mark.parametrize(
    "harm", ["step", "skipped", "metrics", "sha256", "no step", "no skipped", "no sha256"]
)
def test_a_manifest_that_was_changed_is_passed_over_and_named(
    tiny_teacher: Any, tmp_path: Path, told: list[str], harm: str
) -> None:
    engine(tiny_teacher, tmp_path, keep_last=2).run()
    path = tmp_path / "checkpoints" / step_name(12) / "manifest.json"
    path.write_text(json.dumps(harmed(json.loads(path.read_text()), harm)))
    resumed = engine(tiny_teacher, tmp_path, keep_last=2, steps=10)
    resumed.resume()
    assert (9, 0) == (resumed.step, resumed.skipped)
    assert any("passing over a checkpoint" in line and f"{path} is damaged" in line for line in told)
    resumed.run()
    assert [9, 10] == complete_steps(resumed.checkpoints)  # the damaged one counts for nothing any more


def test_a_checkpoint_under_the_name_of_another_is_passed_over(tiny_teacher: Any, tmp_path: Path) -> None:
    engine(tiny_teacher, tmp_path).run()
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / step_name(12)).rename(checkpoints / step_name(15))
    resumed = engine(tiny_teacher, tmp_path)
    resumed.resume()
    assert 9 == resumed.step


@pytest.mark.parametrize("harm", ["line missing", "digit", "broken", "all"])
def test_damage_in_the_log_is_named_and_the_rest_is_kept(
    tiny_teacher: Any, tmp_path: Path, told: list[str], harm: str
) -> None:
    engine(tiny_teacher, tmp_path, steps=6).run()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = {"line missing": "", "digit": lines[2].replace("0.", "1.", 1), "broken": "{" + lines[2]}.get(
        harm, ""
    )
    path.write_text("" if harm == "all" else "".join(lines))
    resumed = engine(tiny_teacher, tmp_path, steps=8)
    resumed.resume()
    resumed.run()
    steps = {"digit": [1, 2, 3, 4, 5, 6], "all": []}.get(harm, [1, 2, 4, 5, 6])
    assert [*steps, 7, 8] == [line["step"] for line in read_metrics(Folder(str(tmp_path)))]
    (line,) = [line for line in told if f"{path} is damaged: of the 6 lines up to step 6" in line]
    assert f"{len(steps)} can be read" in line
    assert (harm == "broken") == any("left out are the lines 3" in line for line in told)
    told.clear()
    engine(tiny_teacher, tmp_path, steps=8).resume()
    assert not any("is damaged" in line for line in told)  # it was said once


def test_a_half_written_checkpoint_is_never_loaded(tiny_teacher: Any, tmp_path: Path) -> None:
    engine(tiny_teacher, tmp_path).run()
    (tmp_path / "checkpoints" / step_name(12) / "manifest.json").unlink()
    resumed = engine(tiny_teacher, tmp_path)
    resumed.resume()
    assert resumed.step == 9


def test_only_damaged_checkpoints_are_an_error(tiny_teacher: Any, tmp_path: Path) -> None:
    engine(tiny_teacher, tmp_path, steps=3).run()
    (tmp_path / "checkpoints" / step_name(3) / "auxiliary.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="is damaged"):
        engine(tiny_teacher, tmp_path).resume()


def test_a_pickle_in_place_of_a_checkpoint_file_is_not_executed(tiny_teacher: Any, tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    engine(tiny_teacher, tmp_path, steps=3).run()
    folder = tmp_path / "checkpoints" / step_name(3)
    data = pickle.dumps(Bomb())
    (folder / "generator.safetensors").write_bytes(data)
    manifest = Folder(folder).read_json("manifest.json")
    manifest["sha256"]["generator.safetensors"] = hashlib.sha256(data).hexdigest()
    Folder(folder).write_json("manifest.json", manifest)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        engine(tiny_teacher, tmp_path).resume()
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_objective_is_refused(tiny_teacher: Any, tmp_path: Path) -> None:
    engine(tiny_teacher, tmp_path, steps=3).run()
    other = {"auxiliary": Optimisation(lr=1e-2, ema=0.0)}
    with pytest.raises(CheckpointError, match="its options differ"):
        engine(tiny_teacher, tmp_path, dimo=other).resume()


def test_old_checkpoints_are_deleted_but_never_the_newest(tiny_teacher: Any, tmp_path: Path) -> None:
    e = engine(tiny_teacher, tmp_path, keep_last=2, checkpoint_every=2)
    e.run()
    assert complete_steps(e.checkpoints) == [10, 12]


def test_a_non_finite_gradient_stops_the_run_and_names_step_phase_and_part(
    tiny_teacher: Any, tmp_path: Path
) -> None:
    e = engine(tiny_teacher, tmp_path)

    def poison(step: int) -> dict[str, float]:
        if step == 4:
            with torch.no_grad():
                e.states["auxiliary"].trained["backbone.out.bias"][0] = torch.nan
        return {}

    with pytest.raises(NumericalError, match=r"step 4, phase 'dimo': not finite: .*grad_norm_auxiliary"):
        e.run([Action(every=1, run=poison)])
    assert (tmp_path / "checkpoints" / "nonfinite_000004" / "manifest.json").exists()
    assert complete_steps(e.checkpoints) == [3]


def test_a_non_finite_gradient_can_be_skipped_and_is_counted(tiny_teacher: Any, tmp_path: Path) -> None:
    e = engine(tiny_teacher, tmp_path, nonfinite="skip", dimo={"auxiliary": Optimisation(lr=1e-2)})

    def poison(step: int) -> dict[str, float]:
        bias = e.states["auxiliary"].trained["backbone.out.bias"]
        with torch.no_grad():
            bias[0] = torch.nan if step == 4 else 0.0
        return {}

    e.run([Action(every=1, run=poison)])
    assert e.skipped == 1
    assert all(bool(t.isfinite().all()) for t in tensors(e).values())


def test_a_device_that_is_not_waited_for_ends_in_the_same_state(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator the host reads the flags steps later; the weights must be those before the update."""

    def stopped(folder: str, **train: Any) -> Engine:
        e = engine(tiny_teacher, tmp_path / folder, **train)
        weight = e.states["auxiliary"].trained["backbone.out.bias"]
        weight.register_hook(lambda grad: grad * torch.nan if e.step == 4 else grad)
        with pytest.raises(NumericalError, match=r"step 4, phase 'dimo': not finite: grad_norm_auxiliary\."):
            e.run()
        assert e.step == 4
        return e

    at_once = stopped("at_once")
    reads = []
    look = Engine._look
    monkeypatch.setattr(Engine, "_look", lambda self: look(self) if len(reads) > 9 else set())
    monkeypatch.setattr(FiniteGuard, "check", counted(FiniteGuard.check, reads))
    later = stopped("later", checkpoint_every=11)
    assert len(reads) > 9
    expected, actual = tensors(at_once), tensors(later)
    assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]


def test_what_is_skipped_between_two_looks_costs_no_line_of_the_log(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator is looked at on logged steps only; a step skipped before does not hide this one."""
    e = engine(tiny_teacher, tmp_path, nonfinite="skip", log_every=6)
    weight = e.states["auxiliary"].trained["backbone.out.bias"]
    weight.register_hook(lambda grad: grad * torch.nan if e.step == 3 else grad)
    look = Engine._look
    monkeypatch.setattr(Engine, "_look", lambda self: look(self) if (self.step + 1) % 6 == 0 else set())
    e.run()
    lines = read_metrics(Folder(str(tmp_path)))
    assert [(6, 1.0), (12, 1.0)] == [(line["step"], line["skipped"]) for line in lines]
    assert all("grad_norm_generator" in line for line in lines)


def test_a_number_for_the_log_that_is_not_finite_changes_no_update(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jeffrey, "value", lambda self, log_p, log_q: torch.full(log_p.shape[:-1], torch.inf))
    e = engine(tiny_teacher, tmp_path, steps=2)
    e.run()
    assert (2, 0) == (e.step, e.skipped)


def counted(method: Any, calls: list[None]) -> Any:
    def count(*args: Any) -> Any:
        calls.append(None)
        return method(*args)

    return count


@pytest.mark.parametrize("rollout", ["shared", "fresh"])
def test_one_step_reads_nothing_back_from_the_device(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rollout: str
) -> None:
    """On the meta device, asking for the value of a tensor is an error."""
    monkeypatch.setattr(PartState, "update", lambda *_: None)  # torch has no fused optimiser for this device
    e = engine(tiny_teacher, tmp_path, dimo={"rollout": rollout})
    meta = torch.device("meta")
    e.device, e.guard = meta, FiniteGuard(meta, stop=True)
    feed = attrs.evolve(e.feeds["conditions"], device=meta)
    for module in (*e.objective.frozen().values(), *(state.module for state in e.states.values())):
        module.to(meta)
    e.states = {name: PartState(name, part) for name, part in e.objective.parts().items()}
    for phase in e.objective.phases():
        assert "skipped" in e.run_phase(phase, feed, 0, watch=False)


def test_an_average_is_used_within_and_the_trained_weights_are_back_afterwards(
    tiny_teacher: Any, tmp_path: Path
) -> None:
    e = engine(tiny_teacher, tmp_path)
    e.run()
    state = e.states["generator"]
    before = {n: p.detach().clone() for n, p in state.trained.items()}
    with state.averaged():
        assert all(torch.equal(p, state.average[n]) for n, p in state.trained.items())
    assert all(torch.equal(p, before[n]) for n, p in state.trained.items())


def test_a_bf16_run_stays_finite_and_keeps_fp32_weights(tiny_teacher: Any, tmp_path: Path) -> None:
    e = engine(tiny_teacher, tmp_path, precision="bf16")
    e.run()
    assert {t.dtype for n, t in tensors(e).items() if not n.endswith("step")} == {torch.float32}
    assert all(bool(t.isfinite().all()) for t in tensors(e).values())


@pytest.mark.parametrize("steps", [12, 300])
def test_a_teacher_of_nan_does_not_end_well_because_its_updates_are_skipped(
    tiny_teacher: Any, tmp_path: Path, steps: int
) -> None:
    e = engine(tiny_teacher, tmp_path, nonfinite="skip", steps=steps, checkpoint_every=150)
    with torch.no_grad():
        e.objective.frozen()["teacher"].out.bias[0] = torch.nan
    row = min(steps, 100)
    with pytest.raises(NumericalError, match=rf"all of the last {row} updates .*the teacher's weights"):
        e.run()
    assert row - 1 == e.step
    assert all(bool(t.isfinite().all()) for t in tensors(e).values())


def test_updates_are_counted_in_a_row_beyond_the_end_of_a_job(tiny_teacher: Any, tmp_path: Path) -> None:
    def job() -> Engine:
        e = engine(tiny_teacher, tmp_path, nonfinite="skip", steps=300, checkpoint_every=300)
        with torch.no_grad():
            e.objective.frozen()["teacher"].out.bias[0] = torch.nan
        e.resume()
        return e

    for step in (40, 80):
        e = job()
        while e.step < step:
            e.take_step()
        e.save()
    last = job()
    with pytest.raises(NumericalError, match=r"all of the last 100 updates "):
        last.run()
    assert 99 == last.step


def test_updates_are_counted_in_a_row_for_each_phase_without_waiting_for_the_device() -> None:
    guard = FiniteGuard(CPU, stop=False)
    for step, (a, b) in enumerate([(1.0, torch.nan), (torch.nan, torch.nan), (1.0, torch.inf)]):
        guard.check(step, "a", {"loss": torch.tensor(a)})
        guard.check(step, "b", {"loss": torch.tensor(b)})
    assert {"a": 0, "b": 3} == {phase: int(count) for phase, count in guard.in_a_row.items()}
    meta = FiniteGuard(torch.device("meta"), stop=False)
    meta.check(0, "a", {"loss": torch.zeros((), device="meta")})
    assert "meta" == meta.in_a_row["a"].device.type
