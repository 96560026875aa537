"""Fixed couplings, the samples they are made of, and generators with noise at masks."""

import json
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimo_core.backbone import Backbone
from dimo_core.cli import main
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.jobs.distil import distill
from dimo_core.method.few_step import FewStep
from dimo_core.method.losses import denoising_loss
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_distillers.imdm import Imdm, NoisyMasks, reset_probability
from dimo_distillers.pairs import PairDraws, Pairs
from dimo_distillers.samples import Samples

GOLDEN = Path(__file__).parents[1] / "data" / "distillers"
C = torch.tensor([0, 1, 1, 0, 1, 0])
X_0 = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(3))
DRAWS = Draws(seed=5, step=3, phase="pairs", total=6)


def test_the_loss_of_pairs_is_that_of_the_reference() -> None:
    known = load_file(GOLDEN / "redi_image.safetensors")
    z = known["logits"].double().flatten(0, 1).requires_grad_()
    loss = denoising_loss(z, known["x0"].flatten(), label_smoothing=0.1) / 18
    loss.backward()
    torch.testing.assert_close(loss.detach(), known["image.loss"], atol=0, rtol=1e-12)
    assert z.grad is not None
    torch.testing.assert_close(z.grad.view(3, 6, 8), known["image.grad_logits"], atol=1e-12, rtol=1e-9)


def pairs(teacher: Any, generator: Any = None) -> Any:
    return Pairs(label_smoothing=0.0).build(
        Ingredients(teacher=teacher, generator=generator or OneStep(sigma_init=0.4))
    )


def test_an_example_has_its_x_init_for_good(tiny_teacher: Any) -> None:
    """In any order, batch and step, and another one than its neighbours have."""
    made = pairs(tiny_teacher).phases()[0]
    cpu = torch.device("cpu")
    whole = made.draws(torch.arange(100), cpu)
    part = made.draws(torch.tensor([70, 3, 3]), cpu)
    generator = made.of.generator
    x = generator.initial_tokens(whole)
    assert torch.equal(generator.initial_tokens(part), x[[70, 3, 3]])
    assert torch.equal(part.normal("eps", 2), whole.normal("eps", 2)[[70, 3, 3]])
    assert len(x.unique(dim=0)) > 50
    straight = Draws(seed=0, phase="pairs", total=100)
    assert torch.equal(x, generator.initial_tokens(straight))
    assert isinstance(part, PairDraws)


def test_the_generator_learns_the_sample_of_its_x_init(tiny_teacher: Any) -> None:
    made = pairs(tiny_teacher)
    phase, g, rows = made.phases()[0], made.generator, torch.tensor([4, 1, 0, 9, 30, 2])
    logs = phase.accumulate(Batch(conditions=C, tokens=X_0, rows=rows), DRAWS)
    actual = {name: p.grad for name, p in g.named_parameters() if p.grad is not None}
    g.zero_grad()
    draws = phase.draws(rows, torch.device("cpu"))
    z = g.head(g(g.initial_tokens(draws), C, draws))
    expected = torch.nn.functional.cross_entropy(z.flatten(0, 1), X_0.flatten())
    expected.backward()
    torch.testing.assert_close(logs["loss"], expected.detach())
    assert actual
    for name, p in g.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(actual[name], p.grad)


def test_pairs_have_one_step(tiny_teacher: Any) -> None:
    with pytest.raises(UsageError, match="couples x_init with a sample, and the generator takes 3 steps"):
        pairs(tiny_teacher, FewStep(steps=3))


def test_samples_of_the_teacher_are_data(tmp_path: Path) -> None:
    out = str(tmp_path / "drawn")
    assert 0 == main(["sample", "--teacher", "maskgit", "--count", "6", "--out", out])
    examples = Samples(path=out).load("all")
    assert examples.tokens is not None
    assert (6, 16) == tuple(examples.tokens.shape)
    assert {"even", "odd"} == set(examples.conditions())
    result = distill(
        teacher="maskgit",
        objective="pairs",
        data={"name": "samples", "path": out},
        train={"steps": 2, "batch_size": 4, "sample_every": 0},
        eval={"enabled": False},
        out=str(tmp_path / "run"),
        device="cpu",
    )
    assert result.folder.exists("generator", "generator.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no samples in .*dimo sample --teacher NAME"),
        ("", "is empty"),
        ('{"tokens": [1, 2], "condition": "a"}\n{"tokens": [1, 2], "cond', "line 2, is no sample"),
        ('{"tokens": [1, 2.5], "condition": "a"}', "line 1, is no sample"),
        ("[" * 100_000, "line 1, is no sample"),
        ('{"tokens": [1], "condition": "a"}\n{"tokens": [1, 2], "condition": "a"}', "of 2 lengths"),
    ],
)
def test_what_is_no_record_of_samples_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "samples.jsonl").write_text(text)
    with pytest.raises(UsageError, match=told):
        Samples(path=str(tmp_path)).load("all")


class Table(Backbone):
    """Stands for a network that embeds by a table."""

    gathers = True

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x]

    def forward(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not used")

    def head(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not used")


def test_noisy_embeddings_are_those_of_the_reference() -> None:
    known = {
        k.removeprefix("embedding."): t for k, t in load_file(GOLDEN / "imdm_embedding.safetensors").items()
    }
    table: Any = Table(known["weights.embedding"])
    made = NoisyMasks(table, noise=5, width=16, seed=0)
    x, mask = known["x"], 7
    assert (x == mask).any()
    torch.testing.assert_close(made.noisy(table.embed(x), x, known["epsilon"], mask), known["out_zero_last"])
    for name, p in made.imdm_mlp.named_parameters():
        p.data.copy_(known[f"weights.imdm_mlp.{name}"])
    torch.testing.assert_close(
        made.noisy(table.embed(x), x, known["epsilon"], mask), known["out"], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(("steps", "resets"), [(1, False), (3, False), (3, True)])
def test_it_starts_exactly_as_the_generator_without_noise(
    tiny_teacher: Any, steps: int, resets: bool
) -> None:
    noisy = Imdm(steps=steps, resets=resets).build(tiny_teacher)
    plain = FewStep(steps=steps, sigma_init=0.0).build(tiny_teacher)
    assert torch.equal(noisy.sample(C, DRAWS), plain.sample(C, DRAWS))
    rollout = noisy.rollout(C, DRAWS)
    assert torch.equal(rollout.hidden, plain.rollout(C, DRAWS).hidden)
    rollout.hidden.square().sum().backward()
    last = noisy.backbone.imdm_mlp[2].weight.grad
    assert last is not None
    assert last.any()


def test_resets_are_those_of_the_references_posterior() -> None:
    """Of the masks that stay, the share with fresh noise; columns 7 and 8 are both kinds."""
    known = load_file(GOLDEN / "imdm_posterior.safetensors")
    names = ("q", "x", "t", "s")
    for q, x, t, s in zip(*(known[f"posterior.{name}"] for name in names), strict=True):
        alpha_t, alpha_s = (float(1 - (1 - 1e-3) * time) for time in (t, s))
        masked = q[x == 7]
        assert len(masked)
        fresh = masked[:, 8] / (masked[:, 7] + masked[:, 8])
        expected = torch.full_like(fresh, reset_probability(alpha_t, alpha_s))
        torch.testing.assert_close(fresh, expected, atol=0, rtol=1e-9)


def test_given_which_sites_stay_masked_resets_are_independent() -> None:
    """By enumeration of the posterior, site by site: how many sites are decided does not change them."""
    alpha_t, alpha_s, sites = 0.2, 0.7, 4
    stay = (1 - alpha_s) / (1 - alpha_t)
    fresh = (1 - alpha_t / alpha_s) * stay
    kept = (alpha_t / alpha_s - alpha_t) / (1 - alpha_t)
    p = {"token": (alpha_s - alpha_t) / (1 - alpha_t), "kept": kept, "fresh": fresh}
    assert sum(p.values()) == pytest.approx(1)
    q = reset_probability(alpha_t, alpha_s)
    for masked in range(1, sites + 1):
        outcomes = [each for each in product(p, repeat=sites) if sites - each.count("token") == masked]
        weights = [math.prod(p[what] for what in each) for each in outcomes]
        for each, weight in zip(outcomes, weights, strict=True):
            resets = q ** each.count("fresh") * (1 - q) ** each.count("kept")
            assert weight / sum(weights) == pytest.approx(resets / math.comb(sites, masked))


class Noise:
    """Notes the noise and the state of each pass."""

    def __init__(self, generator: Any) -> None:
        self.seen, own = list[tuple[torch.Tensor, torch.Tensor]](), generator.backbone.noisy

        def noisy(e: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, mask_id: int) -> torch.Tensor:
            self.seen.append((x, eps))
            result: torch.Tensor = own(e, x, eps, mask_id)
            return result

        generator.backbone.noisy = noisy


def test_sites_that_stay_masked_are_given_fresh_noise_as_often_as_the_posterior_says(
    tiny_teacher: Any,
) -> None:
    rows = 4000
    c, draws = torch.zeros(rows, dtype=torch.long), Draws(seed=1, phase="p", total=rows)
    for resets in (False, True):
        made = Imdm(steps=4, noise=3, resets=resets).build(tiny_teacher).eval()
        watched = Noise(made)
        made.sample(c, draws)
        assert 4 == len(watched.seen)
        visible = [0, 1 / 4, 2 / 4, 3 / 4]
        for i, ((_, before), (x, eps)) in enumerate(pairwise(watched.seen), 1):
            masked = x == 5
            other = (before != eps).any(-1)[masked]
            assert torch.equal(other, (before != eps).all(-1)[masked])
            expected = 1 - visible[i - 1] / visible[i] if resets else 0.0
            sd = math.sqrt(expected * (1 - expected) / len(other))
            assert abs(float(other.double().mean()) - expected) <= 5 * sd
            assert (-1 <= eps).all()
            assert 0.33 == pytest.approx(float(eps.square().mean()), abs=0.01)


def test_resets_are_of_passes_alone_and_a_saved_generator_has_them(tiny_teacher: Any) -> None:
    made, kept = (
        Imdm(steps=3, noise=3, resets=resets).build(tiny_teacher).eval() for resets in (True, False)
    )
    for each in (made, kept):
        last: Any = each.backbone.imdm_mlp[2]
        last.weight.data = 50 * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(made.sample(C, DRAWS), kept.sample(C, DRAWS))
    x, ratio = torch.full((6, 4), 5), torch.ones(6)
    torch.testing.assert_close(
        made.denoise(x, C, DRAWS, mask_ratio=ratio), kept.denoise(x, C, DRAWS, mask_ratio=ratio)
    )
    again = Imdm(noise=3, **made.sampling()).build(tiny_teacher).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(made.sample(C, DRAWS), again.sample(C, DRAWS))


def test_noise_matters_once_it_is_learnt_and_a_saved_generator_has_it(
    tiny_teacher: Any, tmp_path: Path
) -> None:
    options: Any = {"name": "imdm", "steps": 2, "noise": 3, "r_init": 1.0}
    made = distill(
        teacher=tiny_teacher,
        generator=options,
        train={"steps": 3, "batch_size": 8, "sample_every": 0},
        objective={"name": "dimo", "generator": {"lr": 0.1}},
        out=str(tmp_path / "run"),
        device="cpu",
    ).generator
    assert 2 == made.passes
    assert any("imdm_mlp" in name for name, _ in made.backbone.named_parameters())
    again = Imdm(steps=2, noise=3, r_init=1.0, init=str(tmp_path / "run" / "generator")).build(tiny_teacher)
    assert torch.equal(again.eval().sample(C, DRAWS), made.sample(C, DRAWS))
    with torch.no_grad():
        made.backbone.imdm_mlp[2].weight.add_(1.0)  # type: ignore[operator, union-attr]
    x = torch.full((6, 4), 5)
    ratio = torch.ones(6)
    same = made.denoise(x[:1].repeat(6, 1), C[:1].repeat(6), DRAWS, mask_ratio=ratio)
    assert not torch.allclose(same[0], same[1])
    card = json.dumps((tmp_path / "run" / "generator" / "generator.yaml").read_text())
    assert "imdm" in card


@pytest.mark.parametrize("options", [OneStep, FewStep, Imdm])
def test_a_dry_run_misses_a_generator_that_is_not_there(
    options: Any, tiny_teacher: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        options(init=str(tmp_path / "gone")).build(tiny_teacher, skeleton=True)
