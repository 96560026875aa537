"""What Di4C promises besides the reference's numbers: chunks, dropout, memory, folders, published files."""

import copy
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.cli import main as dimo
from dimo_core.draws import Draws
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator, save_generator
from dimo_core.guidance import Constant
from dimo_core.jobs.distil import RunResult, distill
from dimo_core.jobs.dry_run import META, LiveTensors
from dimo_core.jobs.results import row_of_generator
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_core.registry import Registry
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import require_extra
from dimo_di4c.generator import Mixture, MixtureGenerator
from dimo_di4c.half_step import draw_state
from dimo_di4c.losses import Mixing, control_variates
from dimo_di4c.objective import Di4C, Di4CD, Di4CObjective, Di4CPhase
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import Architecture, MaskTransformer
from dimo_meissonic.teacher import Meissonic

B, L, N = 5, 16, 4
C = torch.tensor([0, 2, 1, 0, 1])
DRAWS = Draws(seed=3, step=2, phase="di4c", total=B)
X_0 = torch.randint(6, (B, L), generator=torch.Generator().manual_seed(1))
BATCH = Batch(conditions=C, tokens=X_0)
DROPOUT = Architecture(width=8, depth=1, heads=2, mlp=12, dropout=0.3, grid=4, codes=6, classes=3)


def built(teacher: Teacher, options: Di4C, **generator: Any) -> Di4CObjective:
    i = Ingredients(teacher=teacher, generator=Mixture(latent_features=8, **generator), guidance=Constant())
    made = options.build(i)
    made.p_theta.double()
    return made


def trained(made: Di4CObjective, batch: Batch = BATCH, draws: Draws = DRAWS) -> dict[str, Tensor]:
    """The gradients of a step, added to what is there, and its logs."""
    logs = made.phases()[0].accumulate(batch, draws)
    grads = {f"grad.{name}": p.grad for name, p in made.p_theta.named_parameters() if p.grad is not None}
    return {**grads, **logs}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-12, rtol=1e-9, msg=name)


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("chunk", [1, 3, 4, 9])
def test_chunks_change_nothing(small: Any, chunk: int) -> None:
    whole = trained(built(small(), Di4CD(latents=N, dropout=False)))
    assert any(name.endswith("latent_projection.0.weight") for name in whole)
    same(whole, trained(built(small(), Di4CD(latents=N, dropout=False, latent_chunk=chunk))))


def test_the_second_pass_has_the_dropout_of_the_first(small: Any) -> None:
    """What is computed again is the same to the last bit, and each component has dropout of its own."""
    made = built(small(architecture=DROPOUT), Di4CD(latents=N, latent_chunk=2))
    (phase,) = made.phases()
    assert isinstance(phase, Di4CPhase)
    seen: list[Tensor] = []
    own = phase._z_theta
    phase._z_theta = lambda *a: (seen.append(own(*a)), seen[-1])[1]  # type: ignore[method-assign]
    actual = trained_by(phase, made)
    first, second = seen[:2], seen[2:]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    quiet = built(small(architecture=DROPOUT), Di4CD(latents=N, latent_chunk=2, dropout=False))
    assert not torch.allclose(trained(quiet)["loss"], actual["loss"])
    assert not torch.equal(first[0][:, 0], first[1][:, 0])


def trained_by(phase: Di4CPhase, made: Di4CObjective) -> dict[str, Tensor]:
    made.phases = lambda: [phase]  # type: ignore[method-assign]
    return trained(made)


def test_micro_batches_add_up(small: Any) -> None:
    whole, parts = (
        built(small(), Di4CD(latents=N, dropout=False)),
        built(small(), Di4CD(latents=N, dropout=False)),
    )
    expected, logs = trained(whole), dict[str, Tensor]()
    for start, count in ((0, 2), (2, 3)):
        some = slice(start, start + count)
        found = trained(parts, Batch(conditions=C[some], tokens=X_0[some]), DRAWS.slice(start, count))
        for name, value in found.items():
            logs[name] = value if name.startswith("grad") else logs.get(name, torch.zeros(())) + value
    same(expected, logs)


def test_memory_does_not_grow_with_the_number_of_latents(small: Any) -> None:
    """In chunks; whole, it grows with them."""

    def peak(latents: int, chunk: int | None) -> int:
        options = Di4CD(latents=latents, latent_chunk=chunk)
        with META:
            made = options.build(
                Ingredients(teacher=small(), generator=Mixture(), guidance=Constant(), skeleton=True)
            )
        live = LiveTensors()
        for module in (made.p_phi, made.p_theta):
            live.ignore(module)
        batch = Batch(conditions=C.to(META), tokens=X_0.to(META))
        with live:
            made.phases()[0].accumulate(batch, attrs.evolve(DRAWS, device=META))
        return live.peak

    few, many = peak(4, 2), peak(32, 2)
    # What grows are numbers for each latent and token: draws, x_hat and the sequences' likelihoods.
    assert many - few < 28 * B * (8 * L * 8 + 8 * 40)
    assert peak(32, None) > 4 * many


def test_latents_that_are_all_equal_have_no_control_variate() -> None:
    l = torch.randn(B, 1, L, 7).log_softmax(-1).expand(-1, N, -1, -1)  # noqa: E741
    mixing = Mixing(l[:, 0], l[:, 0].exp(), torch.randint(7, (B, N + 1, L)))
    mixing.add(l)
    assert control_variates(mixing.known()).abs().max() < 1e-12
    other = Mixing(l[:, 0], l[:, 0].exp(), torch.randint(7, (B, N + 1, L)))
    other.add(torch.randn(B, N, L, 7).log_softmax(-1))
    assert control_variates(other.known()).abs().max() > 0.1


def test_without_its_control_variate_the_data_are_seen_through_x_t_alone(small: Any) -> None:
    def step(options: type[Di4C], x_0: Tensor) -> dict[str, Tensor]:
        made = built(small(), options(latents=N, dropout=False))
        found = trained(made, Batch(conditions=C, tokens=x_0))
        return {name: value for name, value in found.items() if name.startswith("grad")}

    state = draw_state(X_0, small().tokens, DRAWS, delta=0.05, schedule="arccos")
    other = torch.where(state.masked, (X_0 + 1) % 6, X_0)
    assert not torch.equal(other, X_0)
    same(step(Di4C, X_0), step(Di4C, other))
    with pytest.raises(AssertionError):
        same(step(Di4CD, X_0), step(Di4CD, other))


def test_without_a_latent_it_is_the_teacher(small: Any) -> None:
    teacher = small()
    made = Mixture(latent_features=8).build(teacher).double()
    ratio = torch.full((B,), 0.5)
    z = made.backbone.logits(X_0, C, mask_ratio=ratio)
    assert torch.equal(z, teacher.network().logits(X_0, C, mask_ratio=ratio))
    one, two = (
        made.head(made.component(X_0, C, torch.full((B,), latent), mask_ratio=ratio)) for latent in (0.2, 0.7)
    )
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, z)


@pytest.mark.parametrize(("guidance", "ramp", "passes"), [(1.0, True, 4), (3.0, True, 7), (3.0, False, 8)])
def test_it_takes_the_passes_that_it_says(small: Any, guidance: float, ramp: bool, passes: int) -> None:
    made = Mixture(latent_features=8, guidance=guidance, ramp=ramp).build(small()).double().eval()
    rows: list[int] = []
    made.backbone.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    x = made.sample(C, DRAWS)
    assert 0 <= int(x.min()) <= int(x.max()) <= 6
    assert sum(rows) / B == passes == made.passes == made.options.passes
    assert made.steps == 4
    assert row_of_generator(made).steps == 4
    assert row_of_generator(made).name == "generator, 4 steps"
    assert torch.equal(made.sample(C[2:4], DRAWS.slice(2, 2)), x[2:4])


def test_a_generator_folder_samples_the_same(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    options = {"latent_features": 8, "steps": 3, "guidance": 2.0, "negative": "teacher", "seed": 4}
    teacher, c = MaskGit(), torch.tensor([0, 1, 1])
    made = Mixture(**options).build(teacher).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.backbone.parameters():
            p.mul_(1.1)
    names = set(made.backbone.state_dict())
    assert names == {*teacher.network().state_dict()} | {
        f"latent_projection.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    again = copy.deepcopy(made)
    again.load_state_dict(made.state_dict())
    config = {"teacher": {"name": "maskgit"}, "generator": {"name": "mixture", **options}}
    save_generator(Folder(str(tmp_path / "g")), made, teacher, config, {"step": 1})
    registry = Registry.discover()
    loaded = load_generator(str(tmp_path / "g"), registry=registry, teacher=teacher)[1]
    assert isinstance(loaded, MixtureGenerator)
    draws = Draws(seed=0, phase="s", total=3)
    expected = made.sample(c, draws)
    for other in (again, loaded, Mixture(**{**options, "init": str(tmp_path / "g")}).build(teacher).eval()):  # type: ignore[arg-type]
        assert torch.equal(other.sample(c, draws), expected)
    sharper = load_generator(str(tmp_path / "g"), registry=registry, teacher=teacher, temperature=0.1)[1]
    assert not torch.equal(sharper.sample(c, draws), expected)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_published_file_loads(small: Any, tmp_path: Path, prefix: str) -> None:
    """The container of ``maskgit-di4c-d.pth``: plain names, or what a trainer puts before them."""
    teacher = small()
    made = Mixture(latent_features=8, seed=1).build(teacher)
    weights = {
        f"{prefix}{name}": torch.full_like(t, i)
        for i, (name, t) in enumerate(made.backbone.state_dict().items())
    }
    state = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]}
    container = {"iter": 30000, "global_epoch": 1, "model_state_dict": weights, "optimizer_state_dict": state}
    torch.save(container, tmp_path / "di4c-d.pth")
    found = Mixture(latent_features=8, init=str(tmp_path / "di4c-d.pth")).build(teacher)
    for name, tensor in found.backbone.state_dict().items():
        assert torch.equal(tensor, weights[f"{prefix}{name}"])


def test_a_published_file_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)
    made = Mixture(latent_features=8, seed=1).build(MaskGit())
    torch.save({"iter": 1, "model_state_dict": made.backbone.state_dict()}, tmp_path / "di4c-d.pth")
    given = ["--generator", "mixture", "--generator.latent_features", "8", "--generator.steps", "3"]
    given += ["--generator.init", str(tmp_path / "di4c-d.pth"), "--out", str(tmp_path / "g")]
    assert dimo(["convert", "--teacher", "maskgit", *given]) == 0, capsys.readouterr().err
    loaded = load_generator(str(tmp_path / "g"))[1]
    c, draws = torch.tensor([0, 1]), Draws(seed=0, total=2)
    again = Mixture(latent_features=8, steps=3, seed=1).build(MaskGit()).eval()
    assert torch.equal(loaded.sample(c, draws), again.sample(c, draws))


def test_a_teachers_file_is_no_mixture(small: Any, tmp_path: Path) -> None:
    teacher = small()
    torch.save({"model_state_dict": teacher.network().state_dict()}, tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"missing: latent_projection\.0\.bias"):
        Mixture(latent_features=8, init=str(tmp_path / "t.pth")).build(teacher)
    with pytest.raises(UsageError, match="no such file or folder"):
        Mixture(latent_features=8, init=str(tmp_path / "no.pth")).build(teacher, skeleton=True)


@pytest.mark.slow
def test_the_published_size_loads_and_samples(tmp_path: Path, small: Any) -> None:
    """Random weights of the published shapes, in fp32, in the published container: 309 tensors, 666 MiB."""
    torch.set_default_dtype(torch.float32)
    sizes = Architecture(
        width=768, depth=24, heads=16, mlp=3072, dropout=0.1, grid=16, codes=1024, classes=1000
    )
    teacher = small(architecture=sizes)
    skeleton = Mixture().build(teacher, skeleton=True)
    weights = {name: t.clone() for name, t in skeleton.backbone.state_dict().items()}
    torch.save({"iter": 1, "global_epoch": 0, "model_state_dict": weights}, tmp_path / "maskgit-di4c-d.pth")
    object.__setattr__(teacher, "weights", teacher.skeleton().state_dict())
    made = Mixture(init=str(tmp_path / "maskgit-di4c-d.pth"), guidance=7.0).build(teacher).float().eval()
    assert len(made.backbone.state_dict()) == 309
    x = made.sample(torch.tensor([1]), Draws(seed=0, total=1))
    assert x.shape == (1, 256)


def test_what_does_not_fit_is_one_clear_error(small: Any, tiny_teacher: Any) -> None:
    torch.set_default_dtype(torch.float32)
    with pytest.raises(UsageError, match="takes no further token"):
        Mixture().build(tiny_teacher)
    with pytest.raises(UsageError, match=r"OneStep makes none\. Use --generator mixture"):
        Di4C().build(Ingredients(teacher=small(), generator=OneStep(), guidance=Constant()))
    with pytest.raises(UsageError, match="Take fewer steps"):
        Mixture(steps=17).build(small())


def test_the_recipe_trains_resumes_and_samples_by_its_folder(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)

    def trained_to(steps: int, folder: str, **options: Any) -> RunResult:
        train = {"steps": steps, "batch_size": 4, "accumulate": 2, "sample_every": 0}
        objective = {"name": "di4c-d", "generator": {"decay": "constant"}}
        own = {"train": train, "objective": objective, "eval": {"enabled": False}, "out": folder}
        return distill(preset="di4c-d", **own, **options)

    out = str(tmp_path / "run")
    found = trained_to(2, out)
    assert isinstance(found.generator, MixtureGenerator)
    again = load_generator(f"{out}/generator")[1]
    c, draws = torch.tensor([0, 1]), Draws(seed=0, total=2)
    assert torch.equal(again.sample(c, draws), found.generator.sample(c, draws))
    resumed, whole = trained_to(3, out, resume=True), trained_to(3, str(tmp_path / "other"))
    for name, tensor in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], tensor), name


class Deaf(MaskTransformer):
    """Its sites do not see further tokens."""

    def forward(self, x: Tensor, c: Tensor, *, mask_ratio: Tensor, extra: Any = None) -> Tensor:
        hidden = super().forward(x, c, mask_ratio=mask_ratio)
        return hidden if extra is None else hidden + 0 * extra.sum()


class Placed(MaskTransformer):
    """Its further tokens have positions."""

    def forward(self, x: Tensor, c: Tensor, *, mask_ratio: Tensor, extra: Any = None) -> Tensor:
        placed = None if extra is None else extra + self.pos_emb[:, :2]
        return super().forward(x, c, mask_ratio=mask_ratio, extra=placed)


@pytest.mark.parametrize(
    ("network", "said"), [(MaskTransformer, ""), (Deaf, "every site sees"), (Placed, "have no position")]
)
def test_the_conformance_kit_looks_at_further_tokens(small: Any, network: Any, said: str) -> None:
    made = network(small().architecture, 7).double()
    made.load_state_dict(small().network().state_dict())
    e = made.embed(X_0).detach()
    if not said:
        require_extra(made.eval(), X_0, C, e)
        return
    with pytest.raises(AssertionError, match=said):
        require_extra(made.eval(), X_0, C, e)


@pytest.mark.parametrize("make", [MaskGit, Meissonic])
def test_both_embedded_teachers_train(make: Any) -> None:
    torch.set_default_dtype(torch.float32)
    teacher = make()
    raw = [0, 1] if make is MaskGit else ["a red circle", "two blue squares"]
    i = Ingredients(teacher=teacher, generator=Mixture(latent_features=8), guidance=Constant())
    made = Di4CD(latents=3, latent_chunk=2).build(i)
    x_0 = Draws(seed=0, total=2).integers("x", teacher.tokens.codes, teacher.tokens.length)
    batch = Batch(conditions=teacher.encode_conditions(raw), tokens=x_0)
    logs = made.phases()[0].accumulate(batch, Draws(seed=0, phase="di4c", total=2))
    assert all(bool(value.isfinite()) for value in logs.values())
    for name, p in made.p_theta.named_parameters():
        # A network of text keeps embeddings of tokens that are never seen.
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
    with torch.no_grad():
        made.p_theta.eval()
        assert made.p_theta.sample(batch.conditions, Draws(seed=0, total=2)).shape == x_0.shape
