"""Sampler, masks and the distillation step against values of the published code; presets against the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from dimo_core.config.distil import resolve_job
from dimo_core.draws import Draws, RecordedDraws
from dimo_core.guidance import Constant, guided
from dimo_core.method import process
from dimo_core.method.denoiser import Denoiser, DenoisingAuxiliary
from dimo_core.method.dimo import Dimo
from dimo_core.method.losses import generator_gradient
from dimo_core.method.process import draw_remask
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling
from dimo_core.tokens import TokenSpace
from dimo_divergences import FKL, RKL, Jeffrey
from dimo_meissonic.samplings import SAMPLINGS
from dimo_meissonic.teacher import Meissonic
from dimo_meissonic.text import NEGATIVE_PROMPT
from dimo_samplers.maskgit import MaskGitSampler, tokens_per_step

Tensors = Callable[[str], dict[str, Tensor]]
GOLDEN = Path(__file__).parents[1] / "data" / "meissonic"
SCHEDULES = json.loads((GOLDEN / "sampler_schedule.json").read_text())
MASKS = json.loads((GOLDEN / "mask_counts.json").read_text())
PAGE = Path(__file__).parents[2] / "docs" / "meissonic.md"


@pytest.mark.parametrize("name", SCHEDULES)
def test_counts_and_noise_of_each_step_equal_the_reference(name: str) -> None:
    golden = SCHEDULES[name]
    counts = tokens_per_step(golden["tokens"], golden["steps"], golden["schedule"], "amused")
    left = [golden["tokens"] - sum(counts[: i + 1]) for i in range(len(counts))]
    assert golden["newly_fixed"] == counts
    assert golden["masked_after_step"] == left
    gumbel = [2.0 * (1 - i / (len(counts) - 1)) for i in range(len(counts))]
    assert golden["temperatures"] == pytest.approx(gumbel, abs=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "arccos"])
@pytest.mark.parametrize("length", [1, 4, 24, 256])
def test_any_number_of_steps_decides_each_token_once(schedule: Any, length: int) -> None:
    for steps in (1, 2, 3, 7, 64, 300):
        counts = tokens_per_step(length, steps, schedule, "amused")
        assert (length, True) == (sum(counts), min(counts) >= 1), steps
        assert len(counts) <= min(steps, length)


@pytest.mark.parametrize("temperature", ["0.0", "0.5", "2.0"])
def test_which_tokens_stay_masked_equals_the_reference(temperature: str, tensors: Tensors) -> None:
    golden = tensors("random_topk")
    p = golden["probs"].double()
    strength = float(temperature)
    sampler = MaskGitSampler(gumbel=2.0, counts="amused")
    for row, mask_len in enumerate(golden["mask_len"].flatten().tolist()):
        draws = RecordedDraws(seed=0, total=1, values={"gumbel": golden["gumbel"][row : row + 1].double()})
        undecided = torch.ones(1, p.shape[1], dtype=torch.bool)
        count = p.shape[1] - int(mask_len)
        best = sampler._best(p[row : row + 1].log(), undecided, count, strength / 2, draws)
        assert torch.equal(golden[f"masking_T{temperature}"][row], ~best[0])


def test_gumbel_numbers_are_made_of_uniform_ones_as_in_the_reference(tensors: Tensors) -> None:
    golden = tensors("random_topk")

    class Given(Draws):
        def uniform(self, stream: str, *shape: int) -> Tensor:
            return golden["uniform"]

    drawn = Given(seed=0, total=2).gumbel("gumbel", 48)
    torch.testing.assert_close(drawn, golden["gumbel"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", MASKS["forward_mask"], ids=lambda case: f"{case['mode']}-{case['u']}")
def test_ratios_and_counts_of_hidden_tokens_equal_the_reference(case: dict[str, Any]) -> None:
    """Its linear and square schedules take u as t, the other two as 1 - t."""
    u = torch.tensor([case["u"]])
    t = u if case["mode"] in ("linear", "square") else 1 - u
    draws = RecordedDraws(seed=0, total=1, values={"t": t, "masked": torch.zeros(1, 4096, dtype=torch.bool)})
    bounds = (MASKS["r_min"], MASKS["r_max"])
    remask = draw_remask(4096, case["mode"], "exact", draws, bounds=bounds)
    assert case["ratio"] == pytest.approx(remask.ratio.item(), rel=1e-6)
    assert case["masked"] == process.masked_count(remask.ratio, 4096).item()


@pytest.mark.parametrize("case", MASKS["token_init"], ids=lambda case: str(case["fixed_ratio"]))
def test_initial_masks_equal_the_reference(case: dict[str, Any]) -> None:
    space = TokenSpace(length=4096, codes=8192, mask_id=8255)
    made = process.initial_tokens(space, case["fixed_ratio"], Draws(seed=0, total=2))
    assert [case["masked"]] * 2 == (made == 8255).sum(1).tolist()


def test_bounds_clamp_the_ratio_and_the_objective_passes_them_on(tiny_teacher: Any) -> None:
    draws = RecordedDraws(
        seed=0,
        total=3,
        values={"t": torch.tensor([0.0, 0.5, 1.0]), "masked": torch.zeros(3, 4, dtype=torch.bool)},
    )
    remask = draw_remask(4, "linear", "exact", draws, bounds=(0.1, 0.9))
    torch.testing.assert_close(remask.ratio, torch.tensor([0.1, 0.5, 0.9]))
    with pytest.raises(ValueError, match="least <= largest"):
        Dimo(ratio_bounds=(0.5, 0.2))
    with pytest.raises(ValueError, match="ratio_bounds"):
        Dimo(ratio_bounds=(-0.1, 0.2))


@pytest.mark.parametrize(
    ("name", "divergence"), [("fkl", FKL()), ("rkl", RKL()), ("jeffreys", Jeffrey(beta=0.3))]
)
def test_the_generators_gradient_equals_the_reference(name: str, divergence: Any, tensors: Tensors) -> None:
    golden = tensors("distil_step")
    logits = golden["student_logits"].clone().requires_grad_()
    mask = golden["mask"]
    phi, psi = (golden[key][mask] for key in ("teacher_guided", "aux_logits"))
    rows, w = logits[mask], torch.ones(len(phi))
    rows.backward(generator_gradient(rows, phi, psi, w, divergence=divergence, batch=len(mask)))
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, golden[f"grad_{name}"], atol=1e-5, rtol=0)


def test_the_teachers_guidance_equals_the_reference(tensors: Tensors, tiny_teacher: Any) -> None:
    golden = tensors("distil_step")
    both = torch.cat([golden["teacher_cond"], golden["teacher_negative"]])
    network = tiny_teacher.network()
    network.forward = lambda x, c, mask_ratio: both
    network.head = lambda hidden, rows=None: hidden
    x, ratio = golden["tokens"], torch.full((2,), 0.5)
    scale = Constant(scale=float(golden["cfg"])).at(ratio)
    c = torch.zeros(2, dtype=torch.long)
    z = guided(tiny_teacher, network, x, c, mask_ratio=ratio, scale=scale)(None)
    torch.testing.assert_close(z, golden["teacher_guided"], atol=1e-5, rtol=0)


def test_the_auxiliarys_loss_and_gradient_equal_the_reference(tensors: Tensors, tiny_teacher: Any) -> None:
    golden = tensors("distil_step")
    logits = golden["aux_logits"].clone().requires_grad_()
    mask = golden["mask"]
    auxiliary = DenoisingAuxiliary(Denoiser(label_smoothing=0.1), tiny_teacher.network())
    loss = auxiliary.loss(logits[mask], golden["tokens"][mask]) / mask.sum()
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden["aux_hard_loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.grad, golden["aux_hard_grad"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_named_sampling_draws_complete_images(name: str, teacher: Meissonic) -> None:
    way = TeacherSampling.of(SAMPLINGS[name], Registry.discover(), name)
    c = teacher.encode_conditions(["a red cat", "b"])
    with torch.no_grad():
        sampled = way.draw(teacher, teacher.network(), c, Draws(seed=0, total=2))
    assert bool(((sampled.tokens >= 0) & (sampled.tokens < 64)).all())
    assert 2 * min(way.steps, len(tokens_per_step(64, way.steps, "cosine", "amused"))) == sampled.passes


def resolved(preset: str, options: dict[str, Any], prompts: Any) -> dict[str, Any]:
    given = {"teacher": {"name": "meissonic", **options, "grid": list(options["grid"])}}
    return dict(resolve_job({**given, "conditions": prompts, "out": "unused"}, preset=preset).config)


def test_the_presets_differ_in_work_alone(options: dict[str, Any], prompts: Any) -> None:
    paper, fast = (resolved(preset, options, prompts) for preset in ("paper", "fast"))
    assert "fast" == resolve_job({"teacher": Meissonic(**options), "conditions": prompts}).config["preset"]
    differing = [
        (key, name)
        for key in ("teacher", "train", "generator", "auxiliary", "divergence", "guidance", "objective")
        for name in paper[key]
        if paper[key][name] != fast[key][name]
    ]
    assert [("teacher", "gradient_checkpointing"), ("objective", "rollout")] == differing


@pytest.mark.parametrize(("preset", "column"), [("paper", 2), ("fast", 3)])
def test_the_table_of_the_page_says_what_a_preset_resolves_to(
    preset: str, column: int, options: dict[str, Any], prompts: Any
) -> None:
    config = resolved(preset, options, prompts)
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    written = {row[0].strip("|` "): row[column - 1] for row in rows if "." in row[0]}
    assert 50 > len(written) > 30
    for path, text in written.items():
        value: Any = config
        for key in path.split("."):
            value = value[key]
        assert yaml.safe_load(text) == value, path
    shown = {path.rsplit(".", 1)[0] for path in written}
    assert {"teacher", "train", "generator", "auxiliary", "divergence", "guidance", "objective"} <= shown


def test_the_page_names_the_default_negative_prompt_and_every_sampling() -> None:
    text = PAGE.read_text()
    assert NEGATIVE_PROMPT in " ".join(text.replace("\n>", "").split())
    assert [name for name in SAMPLINGS if f"`{name}`" not in text] == []
