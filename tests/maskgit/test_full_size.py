"""The published teacher at full size, with random weights: its memory plan, and one whole step."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from dimo_core.config.distil import Job, resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.draws import Draws
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.jobs.dry_run import plan_memory
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.transformer import PUBLISHED, MaskTransformer
from dimo_maskgit.vqgan import Vqgan
from dimo_maskgit.vqgan_config import VqganConfig

CPU = torch.device("cpu")
PAGE = (Path(__file__).parents[2] / "docs" / "imagenet.md").read_text()
WEIGHTS = 174_160_874 * 4


def teacher(network: MaskTransformer, tokenizer: Tokenizer) -> MaskGit:
    card = {
        "network": attrs.asdict(PUBLISHED),
        "tokenizer": tokenizer.spec(),
        "classes": [str(i) for i in range(PUBLISHED.classes)],
        "recipes": "imagenet",
        "evaluation": None,
    }
    return MaskGit._assembled(card, network, tokenizer)


def job(preset: str, made: MaskGit, out: Path, **train: Any) -> Job:
    if preset == "paper":
        vars(made)["mask_logit"] = "keep"  # an object's options are its own; the preset names this one
    return resolve_job({"teacher": made, "train": train, "out": str(out), "device": "cpu"}, preset=preset)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_memory_of_the_full_configuration_is_planned_without_weights(preset: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = MaskTransformer(PUBLISHED, PUBLISHED.codes)
    made = teacher(network, PatchCodebook(torch.zeros(1024, 768), 3, 16, 256))
    plan = plan_memory(attrs.evolve(job(preset, made, tmp_path), device="auto"))
    assert f"{plan.total / 2**30:.1f} GiB for `{preset}`" in PAGE
    rows = plan.rows
    trained = WEIGHTS - 4 * (2026 * 768 + 257 * 768 + 257 * 2026)
    assert {WEIGHTS} == {rows[f"weights of the {name}"] for name in ("teacher", "generator", "auxiliary")}
    assert (2 * 2 * trained, trained) == (rows["Adam's moments"], rows["averages"])


@pytest.mark.slow
@pytest.mark.parametrize(("again", "row"), [(False, "`lora`"), (True, "`lora`, checkpointing")])
def test_the_memory_of_adapters_is_planned_as_the_table_says(again: bool, row: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = MaskTransformer(PUBLISHED, PUBLISHED.codes)
    made = teacher(network, PatchCodebook(torch.zeros(1024, 768), 3, 16, 256))
    vars(made)["gradient_checkpointing"] = again
    given = {"teacher": made, "generator": "lora", "auxiliary": "lora", "out": str(tmp_path)}
    plan = plan_memory(resolve_job(given, preset="fast"))
    table = Path(__file__).parents[2] / "docs" / "results" / "memory.md.inc"
    assert f"| {row} | {plan.total / 2**30:.1f} |" in table.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "precision"), [("paper", "fp32"), ("fast", "bf16")])
def test_one_whole_step_at_full_size(preset: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vqgan = Vqgan(VqganConfig.published()).eval().requires_grad_(False)
    made = teacher(MaskTransformer(PUBLISHED, PUBLISHED.codes), vqgan)
    planned = job(preset, made, tmp_path, batch_size=1, precision=precision, steps=1)
    stream = planned.conditions.open(made.conditioning, seed=0)
    objective = planned.objective.build(planned.ingredients())
    feed = ConditionFeed(stream=stream, teacher=made, device=CPU)
    engine = Engine(
        objective, {"conditions": feed}, planned.train, folder=Folder(str(tmp_path)), seed=0, device=CPU
    )
    before = {
        (part, name): p.detach().clone()
        for part, state in engine.states.items()
        for name, p in state.trained.items()
    }
    scalars = engine.take_step(watch=True)
    assert all(bool(value.isfinite().all()) for value in scalars.values())
    assert 302 * 2 == len(before)
    unchanged = [
        key for key, old in before.items() if torch.equal(old, engine.states[key[0]].trained[key[1]])
    ]
    assert [] == unchanged
    x = objective.parts()["generator"].module.sample(torch.tensor([207]), Draws(seed=1, total=1))
    images = made.decode(x, torch.tensor([207]))
    assert (1, 3, 256, 256) == images.shape
    assert (1, 256) == made.encode(images, torch.tensor([207])).shape
