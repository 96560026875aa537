"""Adapters as generator and auxiliary: one base for three networks, and nothing else changes."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_core.cli import main as dimo
from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.draws import Draws
from dimo_core.engine.loop import Engine
from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator, read_card
from dimo_core.guidance import Constant
from dimo_core.jobs.distil import distill
from dimo_core.jobs.dry_run import plan_memory
from dimo_core.method.dimo import Dimo, DimoObjective
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.objective import Ingredients, Optimisation
from dimo_core.registry import Registry, built
from dimo_core.settings import Train
from dimo_core.teacher import Teacher
from dimo_divergences import Jeffrey
from dimo_lora.parts import Lora, LoraDenoiser
from dimo_maskgit.teacher import MaskGit
from dimo_meissonic.teacher import Meissonic

CPU = torch.device("cpu")
RAW: dict[str, list[Any]] = {"MaskGit": [0, 1], "Meissonic": ["a red circle", "two blue squares"]}
TEACHERS: dict[str, Callable[..., Teacher]] = {"maskgit": MaskGit, "meissonic": Meissonic}
each_teacher = pytest.mark.parametrize("made", TEACHERS.values(), ids=TEACHERS)
smaller_teacher = pytest.mark.parametrize(
    "made", [MaskGit, pytest.param(Meissonic, marks=pytest.mark.slow)], ids=TEACHERS
)


def objective(teacher: Teacher, dropout: float = 0.0, **options: Any) -> DimoObjective:
    """Both parts as adapters, at rates at which a few steps are seen."""
    how = Optimisation(lr=1e-2, warmup=0, ema=0.5)
    train = dropout > 0
    dimo = Dimo(generator=how, auxiliary=how, dropout=train, score_dropout=train)
    return dimo.build(
        Ingredients(
            teacher=teacher,
            generator=Lora(rank=2, dropout=dropout, **options),
            auxiliary=LoraDenoiser(rank=2, dropout=dropout, seed=1),
            divergence=Jeffrey(beta=0.2),
            guidance=Constant(scale=2.0),
        )
    )


def engine(teacher: Teacher, parts: DimoObjective, folder: Path, **train: Any) -> Engine:
    how = Train(**{"steps": 6, "batch_size": 4, "accumulate": 2, **train})
    plan = teacher.evaluation()
    assert plan is not None
    stream = built(Registry.discover(), "conditions", plan.conditions).open(teacher.conditioning, seed=0)
    feed = ConditionFeed(stream=stream, teacher=teacher, device=CPU)
    return Engine(parts, {"conditions": feed}, how, folder=Folder(str(folder)), seed=0, device=CPU)


def networks(parts: DimoObjective) -> dict[str, nn.Module]:
    step = parts.step
    return {"teacher": step.p_phi, "generator": step.p_theta, "auxiliary": step.p_psi}


def with_bases_of_their_own(parts: DimoObjective) -> DimoObjective:
    """The same numbers, every tensor of which is in memory once for each network."""
    for network in networks(parts).values():
        for owner in network.modules():
            for name, p in owner.named_parameters(recurse=False):
                if not p.requires_grad:
                    setattr(owner, name, nn.Parameter(p.detach().clone(), requires_grad=False))
    return parts


def base(network: nn.Module) -> list[Tensor]:
    return [p for name, p in network.named_parameters() if "lora_" not in name]


def state(parts: DimoObjective) -> dict[str, Tensor]:
    """All tensors of generator and auxiliary that are saved."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in networks(parts).items()
        if part != "teacher"
        for name, tensor in module.state_dict().items()
    }


def trained(teacher: Teacher, parts: DimoObjective, folder: Path, **train: Any) -> dict[str, Tensor]:
    """The saved tensors after five steps, which have changed all of them."""
    before = state(parts)
    loop = engine(teacher, parts, folder, **train)
    for _ in range(5):
        loop.take_step()
    after = state(parts)
    assert after.keys() == before.keys()
    assert [] == [name for name in after if torch.equal(after[name], before[name])]
    return after


def assert_equal(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> None:
    assert expected.keys() == actual.keys()
    assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]


@smaller_teacher
def test_one_base_for_three_networks_trains_to_the_numbers_of_three_bases(
    made: Callable[[], Teacher], tmp_path: Path
) -> None:
    teacher = made()
    shared, apart = objective(teacher), with_bases_of_their_own(objective(teacher))
    for parts in (shared, apart):
        for network in networks(parts).values():
            network.double()
    places = [{p.data_ptr() for p in base(network)} for network in networks(shared).values()]
    assert places[0] == places[1] == places[2]
    copies = [{p.data_ptr() for p in base(network)} for network in networks(apart).values()]
    assert 3 * len(copies[0]) == len(set.union(*copies))
    expected = trained(teacher, apart, tmp_path / "apart")
    assert_equal(expected, trained(teacher, shared, tmp_path / "shared"))


@each_teacher
def test_the_teacher_is_neither_trained_nor_changed(made: Callable[[], Teacher], tmp_path: Path) -> None:
    teacher = made()
    parts = objective(teacher)
    loop = engine(teacher, parts, tmp_path)
    for _ in range(5):
        loop.take_step()
    assert_equal(made().network().state_dict(), parts.step.p_phi.state_dict())
    assert_equal(made().network().state_dict(), teacher.network(share=True).state_dict())
    for name, part in loop.states.items():
        assert all(".lora_A." in n or ".lora_B." in n for n in part.trained), name
        optimised = {id(p) for group in part.optimizer.param_groups for p in group["params"]}
        assert {id(p) for p in part.trained.values()} == optimised
        assert part.trained.keys() == part.average.keys()
        assert all(p.grad is None and not p.requires_grad for p in base(part.module))
        assert {name, f"{name}.optimizer", f"{name}.average"} == set(part.state())
        assert all(part.trained.keys() == part.state()[file].keys() for file in (name, f"{name}.average"))


@smaller_teacher
def test_a_resumed_run_ends_bitwise_like_one_that_was_not_stopped(
    made: Callable[[], Teacher], tmp_path: Path
) -> None:
    teacher = made()
    whole = objective(teacher, dropout=0.25)
    engine(teacher, whole, tmp_path / "whole", checkpoint_every=2, keep_last=9).run()
    for step in (4, 6):
        Folder(str(tmp_path / "whole" / "checkpoints")).remove(f"step_{step:06d}")
    fresh = made()
    again = objective(fresh, dropout=0.25)
    loop = engine(fresh, again, tmp_path / "whole", checkpoint_every=6)
    assert loop.resume()
    assert 2 == loop.step
    loop.run()
    assert_equal(state(whole), state(again))


@smaller_teacher
def test_a_base_in_half_precision_is_trained_on_by_adapters_in_fp32(
    made: Callable[[], Teacher], tmp_path: Path
) -> None:
    teacher = made()
    teacher.network(share=True).bfloat16()
    shared, apart = objective(teacher), with_bases_of_their_own(objective(teacher))
    for network in networks(shared).values():
        assert {torch.bfloat16} == {p.dtype for p in base(network)}
    expected = trained(teacher, apart, tmp_path / "apart", precision="bf16")
    assert {torch.float32} == {tensor.dtype for tensor in expected.values()}
    assert all(bool(tensor.isfinite().all()) for tensor in expected.values())
    assert_equal(expected, trained(teacher, shared, tmp_path / "shared", precision="bf16"))


@smaller_teacher
def test_activations_that_are_computed_again_see_the_same_dropout(
    made: Callable[..., Teacher], tmp_path: Path
) -> None:
    found = []
    for again in (False, True):
        teacher = made(gradient_checkpointing=again)
        parts = objective(teacher, dropout=0.25)
        for network in networks(parts).values():
            network.double()
        found.append(trained(teacher, parts, tmp_path / str(again)))
    assert_equal(*found)


@pytest.fixture(scope="module", params=TEACHERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run whose adapters have left zero far behind."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    how = {"lr": 0.02, "warmup": 0}
    distill(
        teacher=request.param,
        generator={"name": "lora", "rank": 3, "targets": None},
        auxiliary={"name": "lora", "rank": 2},
        objective={"generator": how, "auxiliary": how},
        train={"steps": 4, "batch_size": 4, "checkpoint_every": 2, "sample_every": 0},
        eval={"enabled": False},
        out=str(out),
        device="cpu",
    )
    return out


def test_checkpoints_and_generator_hold_adapters_and_say_of_which_base(run: Path) -> None:
    manifest = json.loads((run / "checkpoints" / "step_000004" / "manifest.json").read_text())
    teacher, generator = load_generator(str(run / "generator"))
    files = [
        *(run / "checkpoints" / "step_000004").glob("*.safetensors"),
        *run.glob("generator/*.safetensors"),
    ]
    assert 6 == len(files)
    for file in files:
        assert all(".lora_A." in key or ".lora_B." in key for key in load_file(file)), file
    assert teacher.provenance()
    assert teacher.provenance().items() <= manifest["frozen"].items()
    assert teacher.provenance().items() <= read_card(Folder(str(run / "generator")))["frozen"].items()
    assert_equal(load_file(run / "generator" / "generator.safetensors"), generator.backbone.state_dict())


def test_adapters_are_not_put_on_another_base(tmp_path: Path) -> None:
    teacher = MaskGit()
    other = teacher.network()
    with torch.no_grad():
        other.bias.add_(0.1)
    teacher.save(str(tmp_path / "other"), other, {})
    parts: dict[str, Any] = {
        "generator": Lora(),
        "auxiliary": LoraDenoiser(),
        "train": {"steps": 1, "batch_size": 2, "sample_every": 0},
        "eval": {"enabled": False},
        "device": "cpu",
    }
    distill(teacher="maskgit", out=str(tmp_path / "run"), **parts)
    strange = MaskGit(checkpoint=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match=r"SHA-256 of network\.safetensors is another"):
        load_generator(str(tmp_path / "run" / "generator"), teacher=strange)
    with pytest.raises(CheckpointError, match=r"trained on another teacher: the SHA-256 of network"):
        Lora(init=str(tmp_path / "run" / "generator")).build(strange)


def test_a_run_may_start_with_the_adapters_of_another(run: Path) -> None:
    teacher, generator = load_generator(str(run / "generator"))
    started = Lora(rank=3, init=str(run / "generator")).build(teacher)
    assert_equal(generator.backbone.state_dict(), started.backbone.state_dict())
    with pytest.raises(CheckpointError, match="does not fit the network"):
        Lora(rank=4, init=str(run / "generator")).build(teacher)


def logits(teacher: Teacher, generator: Any) -> Tensor:
    c = teacher.encode_conditions(RAW[type(teacher).__name__])
    x = torch.arange(2 * teacher.tokens.length).view(2, -1) % teacher.tokens.codes
    with torch.no_grad():
        z: Tensor = generator.backbone.logits(x, c, mask_ratio=torch.full((2,), 0.5))
    return z


def test_merged_weights_draw_what_the_adapters_draw(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == dimo(["export", str(run), "--merge", "--out", str(tmp_path / "whole")])
    teacher, adapted = load_generator(str(run / "generator"))
    before = copy.deepcopy(teacher.network(share=True).state_dict())
    _, whole = load_generator(str(tmp_path / "whole"), teacher=teacher)
    assert type(whole) is OneStepGenerator
    assert teacher.network().state_dict().keys() == whole.backbone.state_dict().keys()
    assert adapted.sampling() == whole.sampling()
    expected, actual = logits(teacher, adapted), logits(teacher, whole)
    bare = logits(teacher, OneStep().build(teacher))
    assert (expected - bare).abs().max() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    _, merged = adapted.merged(teacher)
    assert_equal(before, teacher.network(share=True).state_dict())
    assert_equal(whole.backbone.state_dict(), merged.backbone.state_dict())
    for folder, message in (("whole", "holds all of its weights already"), ("", "no generator in")):
        assert 0 != dimo(["export", str(tmp_path / folder), "--merge", "--out", str(tmp_path / "next")])
        assert message in capsys.readouterr().err
    assert 2 == dimo(["export", str(run), "--merge", "--out", str(tmp_path / "whole")])
    assert "is not empty" in capsys.readouterr().err
    assert 2 == dimo(["export", str(run)])
    assert "--merge, which writes whole weights" in capsys.readouterr().err


def test_a_generator_of_adapters_is_sampled_like_any_other(run: Path, tmp_path: Path) -> None:
    assert 0 == dimo(["sample", str(run), "-n", "3", "--out", str(tmp_path / "drawn"), "--device", "cpu"])
    assert 3 == len((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines())
    teacher, generator = load_generator(str(run / "generator"))
    again = copy.deepcopy(generator)
    again.load_state_dict(generator.state_dict())
    c = teacher.encode_conditions(RAW[type(teacher).__name__])
    drawn = [each.sample(c, Draws(seed=0, phase="sample", total=2)) for each in (generator, again)]
    assert torch.equal(*drawn)
    with pytest.raises(RuntimeError, match="lora_A"):
        again.load_state_dict({})


@each_teacher
def test_adapters_start_as_the_teacher_by_their_seed_alone(made: Callable[[], Teacher]) -> None:
    teacher = made()
    first, same, other = (Lora(seed=seed).build(teacher) for seed in (3, 3, 4))
    assert torch.equal(logits(teacher, OneStep().build(teacher)), logits(teacher, first))
    assert_equal(first.state_dict(), same.state_dict())
    names = [name for name in first.state_dict() if "lora_A" in name]
    assert not any(torch.equal(first.state_dict()[name], other.state_dict()[name]) for name in names)


@each_teacher
def test_every_target_of_a_teacher_changes_what_it_computes(made: Callable[[], Teacher]) -> None:
    teacher = made()
    start = logits(teacher, OneStep().build(teacher))
    targets = teacher.network(share=True).adapter_targets()
    assert targets
    for target in targets:
        generator = Lora(targets=(target,)).build(teacher)
        assert all(name.endswith(target) for name in generator.adapted.weights)
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(0.1 if p.requires_grad else 0.0)
        assert not torch.allclose(start, logits(teacher, generator)), target


def test_wrong_targets_are_named_beside_the_right_ones(
    tiny_teacher: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--generator", "lora", "--generator.targets", "[mha.in_proj, mha.outproj]"]
    assert 2 == dimo(["run", *wrong, "--out", str(tmp_path / "run"), "--device", "cpu"])
    said = capsys.readouterr().err.strip()
    assert said.endswith(
        "targets: the network of teacher MaskGit has no module 'mha.outproj' for adapters. It has: "
        "mha.in_proj, mha.out_proj, fn.net.0, fn.net.3, first_layer.2, first_layer.6, last_layer.2. Did you "
        "mean 'mha.out_proj'?"
    )
    assert 1 == len(said.splitlines())
    with pytest.raises(UsageError, match=r"TinyTeacher names no modules .* --generator one_step"):
        Lora().build(tiny_teacher)
    assert 2 == dimo(["run", "--generator", "lora", "--generator.targets", "[]"])
    assert "targets" in capsys.readouterr().err


def test_a_missing_peft_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft", "peft.tuners.lora"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingLibraryError, match=r'peft, which .* pip install --upgrade "dimo\[lora\]"'
    ) as told:
        Lora().build(MaskGit())
    assert 1 == len(str(told.value).splitlines())


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_presets_set_what_adapters_have_in_common_with_whole_networks(teacher: str, preset: str) -> None:
    whole = resolve_job({"teacher": teacher}, preset=preset)
    job = resolve_job({"teacher": teacher, "generator": "lora", "auxiliary": "lora"}, preset=preset)
    for part, apart in (("generator", {"init", "train_embeddings"}), ("auxiliary", {"train_embeddings"})):
        common = {name: value for name, value in whole.config[part].items() if name not in apart}
        assert common | {"name": "lora"} == {name: job.config[part][name] for name in common}
    given = {"teacher": teacher, "generator": {"name": "lora", "r_init": 0.25}}
    assert 0.25 == resolve_job(given, preset=preset).config["generator"]["r_init"]


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_plan_of_memory_counts_one_base_and_the_adapters(teacher: str) -> None:
    given = {"teacher": teacher, "generator": "lora", "auxiliary": "lora", "train": {"batch_size": 2}}
    plan = plan_memory(resolve_job(given))
    (every, none), (with_adapters, adapters) = plan.parameters["teacher"], plan.parameters["generator"]
    assert (0, every) == (none, with_adapters - adapters)
    assert 4 * adapters == plan.rows["weights of the generator"] == plan.rows["weights of the auxiliary"]
    assert 4 * adapters * 4 == plan.rows["Adam's moments"]
    assert 4 * every == plan.rows["weights of the teacher"]
