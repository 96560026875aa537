"""What ``--dry-run`` plans for the published teachers and a text model of eight billion parameters.

    python benchmarks/memory.py docs/results/memory.md.inc

No weights are read and none allocated: steps are taken on the meta device. Each column adds an option to the
one before; batch sizes and precision are those of the presets, and bf16 for text.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from llama import Llama
from shapes import SHAPES, Shape, Shaped

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition, Conditioning
from dimo_core.config.distil import resolve_job
from dimo_core.jobs.dry_run import MemoryPlan, plan_memory
from dimo_core.suggestions import Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace

LORA = {"generator": "lora", "auxiliary": "lora"}
HALF = {"train": {"frozen_dtype": "bf16"}, "eval": {"precision": "bf16"}}
OFF = {"objective": {"generator": {"ema": 0.0}}}
EIGHT = {"train": {"shards": 8}}

COLUMNS: Mapping[str, tuple[bool, Sequence[Mapping[str, Any]]]] = {
    "whole networks": (False, []),
    "whole networks, checkpointing": (True, []),
    "the same, 8 shards": (True, [EIGHT]),
    "`lora`": (False, [LORA]),
    "`lora`, checkpointing": (True, [LORA]),
    "the same, base in bf16": (True, [LORA, HALF]),
    "the same, no average": (True, [LORA, HALF, OFF]),
}
"""Whether activations are computed again, and options, by column."""


@attrs.frozen(kw_only=True, slots=False)
class Planned(Teacher):
    """A published network, with its presets and without files.

    Attributes:
        name: Of the teacher.
        preset: Of the teacher's.
        again: Whether activations are computed again.
        size: As ``shapes`` names it.
    """

    name: str
    preset: str
    again: bool = False
    size: str = "full"

    capabilities = frozenset({"guidance"})
    conditioning = Conditioning(kind="label", classes=tuple(map(str, range(10))))

    @cached_property
    def shape(self) -> Shape:
        """Where sizes, presets and conditions come from."""
        return SHAPES[self.name](self.size)

    @cached_property
    def shaped(self) -> Shaped:
        """The teacher of random weights."""
        keep = self.shape.recipes[self.preset].get("teacher", {}).get("mask_logit") == "keep"
        return self.shape.teacher(keep, self.again)

    @property
    def tokens(self) -> TokenSpace:
        """As published."""
        return self.shaped.tokens

    def skeleton(self) -> Backbone:
        """The network, its blocks computed again if that is asked for."""
        network = self.shaped.skeleton()
        blocks: Any = getattr(network, "transformer", network)
        blocks.gradient_checkpointing = self.again
        return network

    def network(self, *, share: bool = False) -> Backbone:
        """Nobody asks for weights."""
        raise NotImplementedError

    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        """Any; their values make no difference."""
        return self.shape.batch(len(raw), torch.device("cpu")).conditions

    def null_condition(self, c: Condition) -> Condition:
        """As large as any."""
        return self.shaped.null_condition(c)

    def frozen_parameters(self) -> tuple[str, ...]:
        """As published."""
        with torch.device("meta"):
            return self.shaped.frozen_parameters()

    def recipes(self) -> Mapping[str, Recipe]:
        """Without what belongs to files: options of the teacher, and sources of prompts."""
        own = ("train", "generator", "auxiliary", "divergence", "guidance", "objective")
        return {name: {key: recipe[key] for key in own} for name, recipe in self.shape.recipes.items()}

    def evaluation(self) -> None:
        """None."""


ROWS: Mapping[str, tuple[str, Callable[[bool], Teacher]]] = {
    "MaskGIT-256, `fast`": ("fast", lambda again: Planned(name="maskgit", preset="fast", again=again)),
    "Meissonic-1024, `fast`": ("fast", lambda again: Planned(name="meissonic", preset="fast", again=again)),
    "text, 8.0 billion": ("text", lambda again: Llama(again=again)),
}
"""Preset, and teacher with or without checkpointing, by title."""


def planned(teacher: Teacher, preset: str, options: Sequence[Mapping[str, Any]]) -> MemoryPlan:
    """The plan of a run with options of several sources, for an accelerator."""
    given: dict[str, Any] = {"teacher": teacher, "out": "unused"}
    train = teacher.recipes()[preset]["train"]
    if EIGHT in options:  # a process of eight has the micro-batch that one alone has
        size = train["batch_size"] // train.get("accumulate", 1)
        given["train"] = {"batch_size": 8 * size, "accumulate": 1}
    for option in options:
        for section, values in option.items():
            old = given.get(section, {})
            given[section] = {**old, **values} if isinstance(values, Mapping) else values
    return plan_memory(resolve_job(given, preset=preset))


def main() -> None:
    """Plan, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    lines = [f"| GiB of one process | {' | '.join(ROWS)} |", "|---|" + "---:|" * len(ROWS)]
    for column, (again, options) in COLUMNS.items():
        plans = (planned(make(again), preset, options) for preset, make in ROWS.values())
        lines.append(f"| {column} | {' | '.join(f'{plan.total / 2**30:.1f}' for plan in plans)} |")
        print(lines[-1], flush=True)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
