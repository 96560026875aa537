"""Memory of a step of the full configuration, found on the meta device, where tensors have no storage."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from dimo_core.config.distil import resolve_job
from dimo_core.draws import Draws
from dimo_core.jobs import dry_run
from dimo_core.jobs.dry_run import LiveTensors, MemoryPlan, plan_memory
from dimo_core.method import logits
from dimo_core.method.one_step import OneStep
from dimo_meissonic.teacher import Meissonic

WHOLE = 2 * 4096 * 8192 * 4
"""Bytes of [B, 4096, 8192] in fp32, two samples."""

TWO = {"batch_size": 2, "accumulate": 1}
"""A step of one micro-batch, two samples."""

PAGE = (Path(__file__).parents[2] / "docs" / "meissonic.md").read_text()

CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "attention_head_dim": 128,
        "num_attention_heads": 8,
        "num_layers": 14,
        "num_single_layers": 28,
        "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 1024,
        "pooled_projection_dim": 1024,
        "vocab_size": 8256,
        "codebook_size": 8192,
        "downsample": True,
        "upsample": True,
    },
    "vqvae": {"block_out_channels": [128, 256, 256, 512, 768]},
    "text_encoder": {"max_position_embeddings": 77, "hidden_size": 1024, "projection_dim": 1024},
}


class Largest(LiveTensors):
    """Counts the tensors of nearly ``WHOLE`` bytes that are alive at once: the preset masks up to 0.98."""

    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.large: set[int] = set()

    def _note(self, storage: torch.UntypedStorage) -> None:
        new = id(storage) not in self._seen
        super()._note(storage)
        if new and storage.nbytes() >= 0.97 * WHOLE:
            self.large.add(id(storage))
            weakref.finalize(storage, self.large.discard, id(storage))
            Largest.most = max(Largest.most, len(self.large))


def write_configs(folder: Path, **changed: int) -> Path:
    """A folder of the published size without any weights."""
    for part, config in CONFIGS.items():
        (folder / part).mkdir()
        own = config | (changed if part == "transformer" else {})
        (folder / part / "config.json").write_text(json.dumps(own))
    return folder


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published, with a few blocks: tokens, codes and widths make the logits."""
    return write_configs(tmp_path_factory.mktemp("few"), num_layers=1, num_single_layers=1)


def plan(configs: Path, prompts: Any, preset: str, **train: int) -> MemoryPlan:
    """A step with the preset's training, but ``train``."""
    teacher = {"name": "meissonic", "checkpoint": str(configs)}
    given = {"teacher": teacher, "train": train, "conditions": prompts, "out": "unused"}
    return plan_memory(resolve_job(given, preset=preset))


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_no_two_whole_sets_of_logits_are_alive_at_once(
    configs: Path, prompts: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one is: only some masked rows have logits. Without parts there are many."""
    monkeypatch.setattr(dry_run, "LiveTensors", Largest)
    monkeypatch.setattr(Largest, "most", 0)
    parts = plan(configs, prompts, preset, **TWO)
    assert Largest.most == 0
    monkeypatch.setattr(logits, "ELEMENTS", 2**40)
    whole = plan(configs, prompts, preset, **TWO)
    assert Largest.most >= 2
    assert parts.total + 3 * WHOLE < whole.total


def test_drawing_in_chunks_draws_the_same_tokens_in_less_memory(
    teacher: Meissonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = OneStep(temperature=0.7, top_k=20, top_p=0.9).build(teacher).eval()
    c, draws = teacher.encode_conditions(["a", "b", "c"]), Draws(seed=3, total=3)
    sampled = generator.sample(c, draws)
    for elements in (1, 64 * 7, 64 * 64, 64 * 100):
        monkeypatch.setattr(logits, "ELEMENTS", elements)
        assert torch.equal(sampled, generator.sample(c, draws))


@pytest.mark.parametrize("elements", [2**24, 2**40])
def test_the_peak_of_a_draw_is_that_of_one_chunk(
    configs: Path, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "ELEMENTS", elements)
    teacher = Meissonic(checkpoint=str(configs))
    with torch.device("meta"):
        generator = OneStep().build(teacher, skeleton=True)
    hidden = torch.empty(2, 4096, 1024, device="meta")
    live = LiveTensors()
    live.ignore(generator)
    with live, torch.no_grad():
        generator._drawn(hidden, Draws(seed=0, total=2, device=torch.device("meta")), lambda z: z)
    if elements == 2**24:
        assert live.peak < WHOLE
    else:
        assert 3 * WHOLE < live.peak


def test_only_masked_rows_reach_the_head(teacher: Meissonic) -> None:
    network = teacher.network()
    c, hidden = teacher.encode_conditions(["a"]), torch.randn(1, 64, 32)
    seen: list[tuple[int, ...]] = []
    linear = torch.nn.functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "dimo_meissonic.transformer.F.linear", lambda x, w: (seen.append(tuple(x.shape)), linear(x, w))[1]
        )
        rows = torch.tensor([3, 60])
        logits = network.head(hidden.flatten(0, 1)[rows], rows)
    assert [(2, 32)] == seen
    torch.testing.assert_close(logits, network.head(hidden)[0, rows])
    assert (1, 77, 24) == c["text"].shape


def activations(plan: MemoryPlan) -> int:
    return plan.rows["activations and gradients"]


def test_checkpointing_saves_activations_block_by_block(prompts: Any, tmp_path: Path) -> None:
    few, more = tmp_path / "few", tmp_path / "more"
    few.mkdir()
    more.mkdir()
    write_configs(few, num_layers=0, num_single_layers=2)
    write_configs(more, num_layers=0, num_single_layers=6)
    kept, again = (
        activations(plan(more, prompts, preset, **TWO)) - activations(plan(few, prompts, preset, **TWO))
        for preset in ("fast", "paper")
    )
    assert again < 0.3 * kept


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_the_full_configuration_is_planned_without_weights(
    prompts: Any, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "LiveTensors", Largest)
    monkeypatch.setattr(Largest, "most", 0)
    planned = plan(write_configs(tmp_path), prompts, preset)
    assert (1_006_946_304, 0) == planned.parameters["teacher"]
    assert Largest.most == 0
    assert f"{planned.total / 2**30:.1f} GiB for `{preset}`" in PAGE
