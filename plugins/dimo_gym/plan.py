"""Which cells the table has, in the order in which they are measured, and what is finished of them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.method.few_step import decided_per_pass
from dimo_gym.cells import Cell, Knows, installed, judged, measured, teacher_of
from dimo_gym.floors import best_floor, entropies, random_floor
from dimo_gym.joints import CONDITIONS, Kind, Known
from dimo_gym.measuring import ancestral, counted, random_order
from dimo_gym.methods import METHODS, NONE

JOINTS: Sequence[Kind] = ("halves", "markov", "aligned", "table", "ising")
"""All joints; those that are asked for unless others are, with exact teachers."""

FEW: Sequence[Kind] = ("halves", "markov")
"""The joints of learnt teachers and of the comparison of divergences, unless others are asked for."""

FEW_STEPS = (1, 4)
"""The steps of the comparison of divergences."""

SECONDS: Mapping[str, float] = {"few_step": 2.3, "imdm": 5.5, "mixture": 6.2}
"""What 300 training steps of 128 with such a generator, and its law, took on one core, about."""

SAMPLERS = ("random-order", "ancestral", "maskgit")
"""Samplers without distillation; an untrained ``few_step`` draws from masks what the first one does."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        joints: Joint distributions; None for all with exact teachers, and ``FEW`` with learnt ones.
        teachers: Exact ones, learnt ones, or both.
        methods: Names of ``METHODS``.
        divergences: By registry name; None for each method's own, and for all with some methods, ``FEW``
            joints and ``FEW_STEPS``.
        steps: Passes.
        seeds: How many.
        training: Steps of each training.
        batch: Batch size.
        samples: How many, where samples are counted.
    """

    joints: Sequence[Kind] | None
    teachers: Sequence[Knows]
    methods: Sequence[str]
    divergences: Sequence[str] | None
    steps: Sequence[int]
    seeds: int
    training: int
    batch: int
    samples: int

    def joints_of(self, knows: Knows) -> Sequence[Kind]:
        """The joints of exact or of learnt teachers."""
        return self.joints or (JOINTS if knows == "exact" else FEW)

    def all_joints(self) -> Sequence[Kind]:
        """Those of any teacher, in order."""
        return [*dict.fromkeys(joint for knows in self.teachers for joint in self.joints_of(knows))]

    def steps_of(self, joint: Kind) -> list[int]:
        """The steps that differ: those after one that decides a site at a time would be the same again."""
        length, found = Known(joint=joint).shape.length, list[int]()
        for k in sorted(self.steps):
            if not found or found[-1] < length:
                found.append(k)
        return found

    def cells(self) -> list[Cell]:
        """Every cell: a whole table with the first seed comes before the second seed.

        Within a seed each method comes with its own divergence first.
        """
        found = []
        for seed in range(self.seeds):
            for knows, name in product(self.teachers, self.methods):
                for joint, divergence in product(self.joints_of(knows), self._own(name)):
                    for k in self._steps(name, joint):
                        found.append(Cell(joint, knows, name, divergence, k, seed))
            found += [attrs.evolve(cell, seed=seed) for cell in self._compared()]
        return [*dict.fromkeys(found)]

    def _own(self, name: str) -> Sequence[str]:
        """The divergences of a method: its own, or what is asked for and it takes."""
        method = METHODS[name]
        if self.divergences is None or method.divergence is None:
            return [method.divergence or NONE]
        allowed = method.divergences
        return [each for each in self.divergences if allowed is None or each in allowed]

    def _steps(self, name: str, joint: Kind) -> list[int]:
        return [k for k in self.steps_of(joint) if k == 1 or not METHODS[name].one_step]

    def _compared(self) -> Iterator[Cell]:
        """All divergences with exact teachers, where nobody asked for some."""
        if self.divergences is not None or "exact" not in self.teachers:
            return
        every = installed().names("divergence")
        for name in (name for name in self.methods if METHODS[name].others):
            for joint in (joint for joint in self.joints_of("exact") if joint in FEW):
                for divergence, k in product(every, self._steps(name, joint)):
                    if k in FEW_STEPS:
                        yield Cell(joint, "exact", name, divergence, k, 0)

    def core_seconds(self, cells: Sequence[Cell]) -> float:
        """About how long these cells take on one core."""
        return sum(SECONDS[METHODS[cell.method].generator] for cell in cells) * self.training / 300

    def begin(self, folder: Folder) -> None:
        """Write down, or compare, what every cell depends on.

        Raises:
            UsageError: when the folder holds cells of another training.
        """
        facts = {"training": self.training, "batch": self.batch, "samples": self.samples}
        if folder.exists("gym.json"):
            was = folder.read_json("gym.json")
            if was != facts:
                raise UsageError(
                    f"{folder.url} holds cells of {was}, and {facts} is asked for. Give the same, or "
                    "another --out."
                )
        folder.write_json("gym.json", facts)


def file_of(cell: Cell) -> str:
    """Where a cell is kept in the folder of the gym."""
    return f"cells/{cell.name}.json"


def keep(folder: Folder, cell: Cell, *, training: int, batch: int) -> dict[str, Any]:
    """Measure a cell and keep it.

    Args:
        folder: Of the gym.
        cell: Which.
        training: Steps of the training.
        batch: Batch size.
    """
    found = measured(cell, training=training, batch=batch)
    folder.sub("cells").write_json(f"{cell.name}.json", found)
    return found


def finished(folder: Folder, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is measured of these cells."""
    return [folder.read_json(file_of(cell)) for cell in cells if folder.exists(file_of(cell))]


def rows_of_teachers(folder: Folder, plan: Plan, *, measure: bool) -> Iterator[dict[str, Any]]:
    """Samplers without distillation, measured once, if at all; what is finished is read."""
    every = ((joint, knows) for knows in plan.teachers for joint in plan.joints_of(knows))
    for (joint, knows), name in product(every, SAMPLERS):
        for steps in plan.steps_of(joint):
            file = f"{joint}_{knows}_{name}_{steps}.json"
            place = folder.sub("samplers")
            if not place.exists(file):
                if not measure:
                    continue
                teacher = teacher_of(joint, knows)
                if name == "maskgit":
                    sampler = installed().load("sampler", name)()
                    law = counted(teacher, sampler, steps, samples=plan.samples)
                else:
                    law = {"random-order": random_order, "ancestral": ancestral}[name](teacher, steps)
                what = {"joint": joint, "knows": knows, "sampler": name, "steps": steps}
                place.write_json(file, {**what, **judged(law, joint, knows)})
            yield place.read_json(file)


def floors(plan: Plan) -> list[dict[str, Any]]:
    """The multi-information that steps cut through, in nats: mean over the conditions."""
    found = []
    for joint in plan.all_joints():
        known = Known(joint=joint)
        length, codes = known.shape.length, known.shape.codes
        h = [entropies(p, length, codes) for p in known.p()]
        for steps in plan.steps_of(joint):
            counts = decided_per_pass(length, steps)
            both = {"random": random_floor, "best": best_floor}
            means = {name: sum(f(one, counts) for one in h) / len(CONDITIONS) for name, f in both.items()}
            found.append({"joint": joint, "steps": steps, "counts": counts, **means})
    return found
