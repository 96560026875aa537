"""Two training steps of LLaDA-8B and Dream-7B with random weights, beside what ``--dry-run`` plans for them.

    python benchmarks/billions.py --device cuda
    python benchmarks/billions.py --device cpu --size tiny

The preset `dimo` as it is, with adapters of rank 128 (LLaDA) and 32 (Dream), or of --rank; one prompt and
answer of 512 tokens in all, and checkpointed activations. The networks have the sizes that were published.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from step import Contender, Fixed, profiled, timed

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import Feed
from dimo_core.device import device_name, find_device
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.jobs.dry_run import plan_memory
from dimo_core.objective import Batch, Stream
from dimo_dllm.architecture import Architecture, Family
from dimo_dllm.conditions import AnswerSpace
from dimo_dllm.teacher import DllmTeacher, Dream, Llada

PUBLISHED: Mapping[Family, Mapping[str, Any]] = {
    "llada": {
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rope": True,
        "rope_full_precision": True,
        "include_bias": False,
        "d_model": 4096,
        "n_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
    },
    "dream": {
        "hidden_act": "silu",
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "mask_token_id": 151666,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
    },
}
"""Of the published ``config.json``, what makes the network."""

TINY: Mapping[str, Any] = {
    "columns": 200,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "mlp": 96,
    "mask_id": 198,
    "eos_id": 199,
}


@attrs.frozen
class Random:
    """In place of a published folder: its sizes, and weights that are drawn where the network is."""

    architecture: Architecture

    @torch.no_grad()
    def fill(self, network: Backbone) -> None:
        """Gains are 1 and biases 0."""
        for name, p in network.named_parameters():
            p.normal_(std=0.02) if p.ndim > 1 else p.fill_(float(not name.endswith("bias")))


def drawn(family: Family, size: str) -> DllmTeacher:
    """A teacher without files.

    Args:
        family: Whose.
        size: ``full`` or ``tiny``.
    """
    base: type[DllmTeacher] = Llada if family == "llada" else Dream
    sizes = Architecture.from_config(family, PUBLISHED[family], "the published configuration")
    if size == "tiny":
        pad = None if sizes.pad_id is None else TINY["eos_id"]
        sizes = attrs.evolve(sizes, **TINY, kv_heads=2 if family == "dream" else 4, pad_id=pad)

    class Drawn(base):  # type: ignore[misc, valid-type]
        """Every id may be drawn."""

        _published = Random(sizes)

        @cached_property
        def tokens(self) -> AnswerSpace:
            """Without a tokenizer nothing is known of ids that no token has."""
            a, length = self.architecture, self.prompt + self.answer
            return AnswerSpace(
                length=length, answer=self.answer, codes=a.columns, mask_id=a.mask_id, modality="text"
            )

        def condition_skeleton(self, raw: Any) -> dict[str, torch.Tensor]:
            """A prompt of as many tokens as may be; for prompts of any kind."""
            return self.tokens.skeleton(len(raw))

    made: DllmTeacher = Drawn(
        gradient_checkpointing=True, **({"prompt": 8, "answer": 8} if size == "tiny" else {})
    )
    return made


def measured(family: Family, given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Bytes as planned and as measured, and seconds of the second step."""
    teacher, device = drawn(family, given.size), given.where
    adapters = {} if given.rank is None else {"rank": given.rank, "alpha": float(given.rank)}
    options: dict[str, Any] = {
        "teacher": teacher,
        "conditions": {"name": "prompt-list", "prompts": ["any"]},
        "train": {"batch_size": 1, "accumulate": 1},
        "generator": adapters,
        "auxiliary": adapters,
        "device": str(device),
        "out": "unused",
    }
    job = resolve_job({key: value for key, value in options.items() if value}, preset="dimo")
    plan = plan_memory(job)
    with device:
        objective = job.objective.build(job.ingredients())
    batch = Batch(conditions=conditions.to(teacher.tokens.skeleton(1), device))
    feeds: dict[Stream, Feed] = {"conditions": Prompted(lambda _: batch, teacher.tokens.answer)}
    engine = Engine(objective, feeds, job.train, folder=Folder(folder), seed=0, device=device)
    modules = (*objective.frozen().values(), *(part.module for part in objective.parts().values()))

    def tensors() -> Iterator[torch.Tensor]:
        for module in modules:
            yield from module.parameters()
        for state in engine.states.values():
            yield from (t for own in state.optimizer.state.values() for t in own.values())

    engine.take_step()
    seconds, _ = timed(engine.take_step, device)
    peak, kernels = profiled(Contender(step=engine.take_step, tensors=tensors), device)
    return {
        "parameters": {name: list(counts) for name, counts in plan.parameters.items()},
        "planned": plan.total,
        "measured": peak,
        "seconds": seconds,
        "finite": engine.skipped == 0,
        "kernels": dict(list(kernels.items())[:8]),
    }


@attrs.frozen
class Prompted(Fixed):
    """The same prompt in every batch."""

    answer: int

    def valid(self, start: int, count: int) -> torch.Tensor:  # type: ignore[override]
        """The answer."""
        c = self.batch(count).conditions
        assert isinstance(c, dict)
        own: torch.Tensor = c["valid"]
        return own


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--rank", type=int, help="of the adapters; the preset's unless given")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    given = parser.parse_args()
    given.where = find_device(given.device)
    found: dict[str, Any] = {"machine": f"{device_name(given.where)}, torch {torch.__version__}"}
    for family in given.families:
        with tempfile.TemporaryDirectory() as folder:
            found[family] = one = measured(family, given, folder)
        share = one["planned"] / one["measured"]
        print(
            f"{family}: planned {one['planned'] / 2**30:.2f} GiB, measured {one['measured'] / 2**30:.2f} "
            f"({share:.3f}), {one['seconds']:.3f} s a step",
            flush=True,
        )
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    if not all(one["finite"] for name, one in found.items() if name != "machine"):
        raise SystemExit("a gradient was not finite")


if __name__ == "__main__":
    main()
