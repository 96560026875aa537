"""Di4C against values of the released code: network, teacher's step, losses, one training step, sampler."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.draws import categorical
from dimo_core.engine.part_state import PartState
from dimo_core.errors import UsageError
from dimo_core.files.weights import assign
from dimo_core.guidance import Constant
from dimo_core.objective import Batch, Ingredients, Part
from dimo_di4c.generator import Mixture, MixtureGenerator
from dimo_di4c.half_step import (
    completed,
    gumbel_scale,
    mask_share,
    most_certain,
    tokens_per_step,
    unmask_counts,
)
from dimo_di4c.latent import MixtureBackbone, features
from dimo_di4c.losses import Mixing, control_variates, gradient, log_likelihoods, terms, weights
from dimo_di4c.objective import Di4C, Di4CD, Di4CObjective
from dimo_maskgit.transformer import Architecture

GOLDEN = Path(__file__).parents[1] / "data" / "di4c"
NETWORK = Architecture(width=16, depth=2, heads=4, mlp=24, dropout=0.0, grid=4, codes=12, classes=4)
B, L, V = 5, 16, 7
STEPS = pytest.mark.parametrize("n", [1, 2, 4])
IMAGES = {"distil": "distil", "consistency_cv": "consistency_cor", "data_cv": "data_cor"} | {
    name: name for name in ("consistency_marginal", "data_marginal")
}


def table(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def tensors(name: str, prefix: str = "") -> dict[str, Tensor]:
    """Floating-point numbers as float64."""
    found = load_file(GOLDEN / f"{name}.safetensors")
    return {
        key.removeprefix(prefix): value.double() if value.is_floating_point() else value
        for key, value in found.items()
        if key.startswith(prefix)
    }


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected.view(actual.shape), atol=atol, rtol=0)


def exact(actual: Tensor, expected: Tensor) -> None:
    """Against what is stored in float64: relative to the largest entry."""
    close(actual, expected, atol=1e-9 * float(expected.abs().max()))


@pytest.fixture
def mixture(small: Any) -> MixtureBackbone:
    made = MixtureBackbone(small(architecture=NETWORK).network(), 32, seed=0).double()
    assign(made, tensors("network_weights"), "golden")
    return made.eval()


@pytest.fixture
def io() -> dict[str, Tensor]:
    return tensors("network_io")


def test_the_latents_features_are_those_of_the_reference(io: dict[str, Tensor]) -> None:
    for count in (128, 32, 8, 7):
        close(features(io["lambda_grid"], count), io[f"features_{count}"], atol=1e-12)
    single = features(io["lambda_grid"].float(), 128)
    assert single.dtype == torch.float32
    close(single.double(), io["features_128_float32"], atol=5e-5)
    assert features(io["lambda_grid"].half(), 128).dtype == torch.float32


def test_logits_with_a_latent_are_those_of_the_reference(
    mixture: MixtureBackbone, io: dict[str, Tensor]
) -> None:
    seen: list[Tensor] = []
    transformer: Any = mixture.network
    transformer.first_layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x, ratio = io["tokens"].flatten(1), torch.zeros(4).double()
    null = torch.full_like(io["labels"], NETWORK.classes)
    mixed = torch.where(io["drop_mixed"], null, io["labels"])
    for name, c in (("cond", io["labels"]), ("null", null), ("mixed", mixed)):
        hidden = mixture(x, c, mask_ratio=ratio, latent=io["lambda"])
        close(mixture.head(hidden), io[f"logits_{name}"])
    close(seen[0], io["act.before_first_layer"])
    close(mixture.logits(x, io["labels"], mask_ratio=ratio), io["logits_no_lambda"])
    latent = io["lambda_grid"]
    close(mixture.latent_projection(latent)[:, 0], io["lambda_token"])
    x, c = x[2:3].expand(len(latent), -1), io["labels"][2:3].expand(len(latent))
    hidden = mixture(x, c, mask_ratio=torch.zeros(len(latent)), latent=latent)
    close(mixture.head(hidden), io["logits_lambda_grid"])


def test_a_half_precision_latent_never_is_one(mixture: MixtureBackbone, io: dict[str, Tensor]) -> None:
    mixture.float()
    hidden = mixture(
        io["tokens"].flatten(1), io["labels"], mask_ratio=torch.zeros(4), latent=io["lambda"].float()
    )
    close(mixture.head(hidden).double(), io["logits_cond_float32_features"], atol=3e-4)


def test_names_and_shapes_are_the_published_ones(small: Any) -> None:
    published = table("network_shapes")["published_256"]
    with torch.device("meta"):
        sizes = Architecture(
            width=768, depth=24, heads=16, mlp=3072, dropout=0.1, grid=16, codes=1024, classes=1000
        )
        made = MixtureBackbone(small(architecture=sizes).skeleton(), 128, seed=0)
    expected = {
        name.replace("{0..23}", str(i)): shape
        for name, shape in published["shapes"].items()
        for i in range(24 if "{" in name else 1)
    }
    assert {name: list(t.shape) for name, t in made.state_dict().items()} == expected
    assert len(expected) == published["tensors"] == 309
    assert sum(p.numel() for p in made.parameters()) == published["parameters"]


def test_counts_of_the_teachers_step() -> None:
    """In 15 rows, on an integer, float32 and float64 of the reference differ."""
    rows = table("unmask_counts")["rows"]
    for length, mode, u, delta, masked, single, double in rows:
        u = torch.tensor([u], dtype=torch.float32).double()
        found = unmask_counts(u, torch.tensor([masked]), delta=delta, length=length, schedule=mode)
        assert int(found) in (single, double), (length, mode, u, delta, masked)
    assert len(rows) > 100


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("default", {}),
        ("nothing", {}),
        ("temps", {"teacher_temperature": 1 / 0.7, "gumbel": 1.5, "teacher_steps": 12, "delta": 0.1}),
        ("random", {"order": "random", "delta": 0.1}),
        ("confidence", {"gumbel": 0.0, "delta": 0.1}),
        ("guided", {"delta": 0.1}),
    ],
)
def test_the_teachers_step(prefix: str, options: Any) -> None:
    known, o = tensors("half_step", f"{prefix}."), Di4C(**options)
    u, x_t, masked = known["u"], known["x_t"].flatten(1), known["mask"].flatten(1)
    z = known["logits_guided" if prefix == "guided" else "logits"] / o.teacher_temperature
    counts = unmask_counts(u, masked.sum(1), delta=o.delta, length=x_t.shape[1], schedule="arccos")
    assert torch.equal(counts, known["unmask_count"])
    drawn, undecided = known["drawn"], masked[:, None].expand(known["drawn"].shape)
    log_p = z.log_softmax(-1).gather(-1, drawn.transpose(1, 2)).transpose(1, 2)
    if o.order == "random":
        score = known["score_uniform"]
    elif o.gumbel == 0:
        score = log_p
        close(score.exp().masked_fill(~undecided, -torch.inf), known["score"])
    else:
        score = log_p + o.gumbel * gumbel_scale(u, o.teacher_steps)[:, None, None] * known["gumbel"]
        close(score.masked_fill(~undecided, -torch.inf), known["score"], atol=2e-6)
    chosen = most_certain(score, undecided, counts[:, None].expand(score.shape[:2]))
    assert torch.equal(chosen, known["unmasked"])
    assert torch.equal(completed(x_t, drawn, chosen), known["x_u"].flatten(2))


@STEPS
def test_every_term_and_the_closed_form_gradient(n: int) -> None:
    known = tensors(f"step_N{n}")
    z = known["student_logits"].view(B, n, L, V)
    x = torch.cat([known["codes"].flatten(1)[:, None], known["x_hat"].view(B, n, L)], 1)
    w = weights(known["u"], delta=0.05, data_cv=0.1, alpha="sigmoid", marginal=1.0)
    exact(w.data_cv, known["alpha"])
    assert torch.equal(w.consistency == 0, known["near_data"])
    mixing = Mixing(known["teacher_logits"].log_softmax(-1), known["target_marginal"], x)
    for i in range(n):
        mixing.add(z[:, i : i + 1].log_softmax(-1))
    every = mixing.known()
    close(every.log_lbar, known["log_marginal"])
    found = terms(every)
    for ours, theirs in IMAGES.items():
        close(getattr(found, ours), known[theirs], atol=3e-6)  # the logits are stored in float32
    cv = control_variates(every)
    close(cv, torch.cat([known["data_cv"][:, None], known["target_cv"]], 1), atol=1e-6)
    assert n > 1 or not cv.any()
    names = {"distil": "distil_weighted", "consistency": "consistency_weighted", "data": "data_total"}
    for name, value in found.weighted(w).items():
        close(value, known[names[name]], atol=2e-5 if name == "distil" else 3e-6)
    both = [gradient(z[:, i : i + 1].log_softmax(-1), slice(i, i + 1), every, w, B) for i in range(n)]
    close(torch.cat(both, 1), known["grad_logits"])
    assert torch.cat(both, 1).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("part", IMAGES.values())
def test_each_parts_gradient(part: str) -> None:
    """The five parts that the closed form is made of, by differences of its weights."""
    known = tensors("step_N2")
    l, both = known["student_logits"].view(B, 2, L, V).log_softmax(-1), slice(0, 2)  # noqa: E741
    x = torch.cat([known["codes"].flatten(1)[:, None], known["x_hat"].view(B, 2, L)], 1)
    w = weights(known["u"], delta=0.05, data_cv=0.1, alpha="sigmoid", marginal=1.0)
    zero = torch.zeros_like(w.distil)
    only = attrs.evolve(w, distil=zero, consistency=zero, data_cv=zero, marginal=0.0)
    name = {"distil": "distil", "data_cor": "data_cv", "data_marginal": "marginal"}.get(part, "consistency")
    mixing = Mixing(known["teacher_logits"].log_softmax(-1), known["target_marginal"], x)
    mixing.add(l)
    every = mixing.known()
    found = gradient(l, both, every, attrs.evolve(only, **{name: getattr(w, name)}), B)
    if name == "consistency":  # without targets their marginals' part is gone
        flat = attrs.evolve(every, qbar=torch.zeros_like(every.qbar))
        alone = gradient(l, both, flat, attrs.evolve(only, consistency=w.consistency), B)
        found = alone if part == "consistency_cor" else found - alone
    close(found, known[f"grad_logits.{part}"])


def training(small: Any, n: int, **options: Any) -> tuple[Di4CObjective, Batch, dict[str, Tensor]]:
    """The objective with the networks of the reference, and what it draws."""
    saved, known = tensors("step_weights"), tensors(f"step_N{n}")
    own: Any = {
        part: {k.removeprefix(f"{part}."): t for k, t in saved.items() if k.startswith(f"{part}.")}
        for part in ("student", "teacher")
    }
    ingredients = Ingredients(
        teacher=small(weights=own["teacher"]), generator=Mixture(latent_features=8), guidance=Constant()
    )
    made = Di4CD(latents=n, **options).build(ingredients)
    made.p_theta.double()
    assign(made.p_theta.backbone, own["student"], "golden")
    return made, Batch(conditions=known["labels"], tokens=known["codes"].flatten(1)), known


@STEPS
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_one_training_step(small: Any, written: Any, numbers: Any, n: int, chunk: int | None) -> None:
    made, batch, known = training(small, n, latent_chunk=chunk)
    (phase,) = made.phases()
    z_phi = known["teacher_logits"][:, None].expand(-1, n, -1, -1)
    drawn, x_hat = known["teacher_drawn"].view(B, n, L), known["x_hat"].view(B, n, L)
    values = {
        "label_dropout": known["drop_uniform"],
        "u": known["u"],
        "masked": known["mask_uniform"].flatten(1),
        "drawn": numbers(drawn, z_phi),
        "gumbel": known["gumbel"].view(B, n, L),
        "lambda": known["lambda_student"].view(B, n),
        "lambda_target": known["lambda_target"].view(B, n),
        "x_hat": numbers(x_hat, known["target_logits"].view(B, n, L, V)),
    }
    assert torch.equal(categorical(z_phi, values["drawn"]), drawn)
    logs = phase.accumulate(batch, written(seed=0, total=B, values=values))
    exact(logs["loss"], known["loss"])
    for name, key in (("distil_loss", "distil_weighted"), ("data_loss", "data_total")):
        exact(logs[name], known[key].mean())
    exact(logs["consistency_loss"], known["consistency_weighted"].mean())
    grads = {}
    for name, p in made.p_theta.backbone.named_parameters():
        assert p.grad is not None
        grads[name.removeprefix("network.")] = p.grad
    for name, grad in grads.items():
        exact(grad, known[f"grad.{name}"])
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    exact(norm, known["grad_norm"])
    if n == 4:
        updated(made, known)


def updated(made: Di4CObjective, known: dict[str, Tensor]) -> None:
    """AdamW and clipping as the options have them; ours decays weight matrices alone, at 1e-10 of them."""
    before = {name: t.clone() for name, t in made.p_theta.backbone.state_dict().items()}
    part: Part = made.parts()["generator"]
    state = PartState("generator", part)
    exact(state.clip(), known["grad_norm"])
    state.update(0, 100, torch.zeros(()))
    for name, tensor in made.p_theta.backbone.state_dict().items():
        exact(tensor, known[f"after_step.{name}"])
        assert not torch.equal(tensor, before[name])


def test_the_samplers_schedule() -> None:
    for length, modes in table("schedules")["sampler_tokens_per_step"].items():
        for mode, by_steps in modes.items():
            for steps, counts in by_steps.items():
                if counts[-1] < 1:
                    with pytest.raises(UsageError, match="Take fewer steps"):
                        tokens_per_step(int(length), int(steps), mode)
                else:
                    assert tokens_per_step(int(length), int(steps), mode) == counts


def test_the_guidance_ramp_and_alpha() -> None:
    ramp = table("schedules")["sampler_ramp"]
    for steps in (2, 3, 4, 8, 16):
        scales = Mixture(steps=steps, guidance=1 + ramp["w"]).scales()
        assert [s - 1 for s in scales] == pytest.approx(ramp[str(steps)]["w_step"])
    assert Mixture(steps=1, guidance=7.0).scales() == [1.0]
    assert Mixture(steps=1, guidance=7.0, ramp=False).scales() == [7.0]
    alpha = table("schedules")["alpha"]
    u = torch.tensor(alpha["u"], dtype=torch.float64)
    for name, ours in (("sigmoid", "sigmoid"), ("linear", "linear"), ("const", "constant")):
        w = weights(u, delta=alpha["delta"], data_cv=0.1, alpha=ours, marginal=1.0)  # type: ignore[arg-type]
        exact(w.data_cv, torch.tensor(alpha[f"alpha_{name}_0.1"], dtype=torch.float64))
        assert (w.consistency == 0).tolist() == alpha["near_data"]


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("guided4", {"steps": 4, "guidance": 7.0}),
        (
            "teacher_negative3",
            {"steps": 3, "guidance": 3.0, "gumbel": 3.0, "temperature": 1 / 1.2, "negative": "teacher"},
        ),
        ("unguided5", {"steps": 5}),
    ],
)
def test_whole_runs_of_the_sampler(
    small: Any, written: Any, numbers: Any, prefix: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, saved = tensors("sampler_trajectory", f"{prefix}."), tensors("step_weights")
    teacher = small(weights={k[8:]: t for k, t in saved.items() if k.startswith("teacher.")})
    made = Mixture(latent_features=8, **options).build(teacher).double()
    assign(made.backbone, {k[8:]: t for k, t in saved.items() if k.startswith("student.")}, "golden")
    states: list[Tensor] = []
    own = MixtureGenerator._guided

    def seen(self: Any, x: Tensor, *args: Any) -> Any:
        states.append(x)
        i, z = len(states) - 1, own(self, x, *args)
        probs = (z(torch.arange(x.numel())) / self.options.temperature).softmax(-1)
        close(probs, known["probs"][i].flatten(0, 1))
        return z

    monkeypatch.setattr(MixtureGenerator, "_guided", seen)
    drawn = numbers(known["drawn_tokens"], known["probs"].log())
    values = {"lambda": known["lambda"], "drawn": drawn, "gumbel": known["gumbel"]}
    draws = written(seed=0, phase="s", total=len(known["labels"]), values=values)
    x = made.eval().sample(known["labels"], draws)
    assert torch.equal(torch.stack(states), known["codes_before_step"].flatten(2))
    assert torch.equal(x.clamp(max=5), known["final_codes"].flatten(1))


def test_masked_shares_are_those_of_their_names() -> None:
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    for schedule in ("arccos", "cosine", "linear", "square", "root"):
        r = mask_share(u, schedule)  # type: ignore[arg-type]
        close(r[[0, -1]], torch.tensor([1.0, 0.0]).double(), atol=1e-15)
        assert (r.diff() < 0).all()


def test_log_likelihoods_are_sums_over_all_sites() -> None:
    l = torch.randn(2, 3, 4, 5, dtype=torch.float64).log_softmax(-1)  # noqa: E741
    x = torch.randint(5, (2, 6, 4))
    found = log_likelihoods(l, x)
    for b, n, i in ((0, 0, 0), (1, 2, 5)):
        assert float(found[b, n, i]) == pytest.approx(sum(float(l[b, n, d, x[b, i, d]]) for d in range(4)))
