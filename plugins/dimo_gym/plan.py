"""Which cells the table has, in the order in which they are measured, and what is finished of them."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_gym.floors import best_floor, entropies, random_floor
from dimo_gym.joints import CONDITIONS, Kind, Known
from dimo_gym.measuring import Law, ancestral, counted, few_counts, random_order
from dimo_gym.methods import METHODS, Cell, Knows, installed, judged, measured, teacher_of
from dimo_gym.teacher import GymTeacher

FAMILY = ("jeffrey", "rkl", "fkl", "js")
"""The divergences that are tried unless others are asked for; with ``dimo`` and exact teachers all are."""

SAMPLERS = ("random-order", "ancestral", "untrained", "maskgit")
"""Samplers without distillation, and what the generator draws from masks alone before any training."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        joints: Joint distributions.
        teachers: Exact ones, learnt ones, or both.
        methods: Names of ``METHODS``.
        divergences: By registry name; None for ``FAMILY``, and for all with ``dimo`` and exact teachers.
        steps: Passes.
        seeds: How many.
        training: Steps of each training.
        batch: Batch size.
        samples: How many, where samples are counted.
    """

    joints: Sequence[Kind]
    teachers: Sequence[Knows]
    methods: Sequence[str]
    divergences: Sequence[str] | None
    steps: Sequence[int]
    seeds: int
    training: int
    batch: int
    samples: int

    def cells(self) -> list[Cell]:
        """Every cell: a whole table with the first seed comes before the second seed."""
        found = []
        for seed, knows, name, steps in product(range(self.seeds), self.teachers, self.methods, self.steps):
            for divergence, joint in product(self._divergences(name, knows), self.joints):
                cell = Cell(
                    joint=joint, knows=knows, method=name, divergence=divergence, steps=steps, seed=seed
                )
                found.append(cell)
        return found

    def _divergences(self, method: str, knows: Knows) -> Sequence[str]:
        allowed, every = METHODS[method].divergences, installed().names("divergence")
        usual = [*FAMILY, *every] if (method, knows) == ("dimo", "exact") else FAMILY
        wanted = self.divergences or usual
        return [name for name in dict.fromkeys(wanted) if allowed is None or name in allowed]

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


def rows_of_teachers(folder: Folder, plan: Plan) -> Iterator[dict[str, Any]]:
    """Samplers without distillation, measured once; what is finished is read."""
    for joint, knows, name, steps in product(plan.joints, plan.teachers, SAMPLERS, plan.steps):
        file = f"{joint}_{knows}_{name}_{steps}.json"
        place = folder.sub("samplers")
        if not place.exists(file):
            teacher = teacher_of(joint, knows)
            if name == "maskgit":
                sampler = installed().load("sampler", name)()
                law = counted(teacher, sampler, steps, samples=plan.samples)
            else:
                exact = {"random-order": random_order, "ancestral": ancestral, "untrained": untrained}
                law = exact[name](teacher, steps)
            what = {"joint": joint, "knows": knows, "sampler": name, "steps": steps}
            place.write_json(file, {**what, **judged(law, joint, knows)})
        yield place.read_json(file)


def untrained(teacher: GymTeacher, steps: int) -> Law:
    """What a generator from masks alone draws before it is trained: its passes decide what a sampler's do."""
    return random_order(teacher, steps)


def floors(plan: Plan) -> list[dict[str, Any]]:
    """The multi-information that steps cut through, in nats: mean over the conditions."""
    found = []
    for joint in plan.joints:
        known = Known(joint=joint)
        length, codes = known.shape.length, known.shape.codes
        h = [entropies(p, length, codes) for p in known.p()]
        for steps in plan.steps:
            counts = few_counts(length, steps)
            both = {"random": random_floor, "best": best_floor}
            means = {name: sum(f(one, counts) for one in h) / len(CONDITIONS) for name, f in both.items()}
            found.append({"joint": joint, "steps": steps, "counts": counts, **means})
    return found
