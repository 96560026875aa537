"""The command ``dimo gym``."""

from typing import Literal

import attrs
from attrs import validators as v

from dimo_core.command import Command

Joint = Literal["table", "markov", "ising", "halves", "aligned"]


@attrs.frozen(kw_only=True)
class Gym(Command):
    """Objectives, divergences and steps, measured against joint distributions that are known exactly.

    Attributes:
        out: Folder of the gym. What is finished in it is kept, and the same command goes on from there.
        smoke: The smallest table that shows the known orders, in a minute; what else is given is ignored but
            for out and workers.
        joints: Joint distributions: table, markov, ising, halves, aligned; null for all with exact teachers,
            and for halves and markov with learnt ones.
        teachers: Those that know the joint exactly, those that have learnt it, or both.
        methods: Methods; null for all.
        divergences: Divergences by name; null for each method's own, and for all with dimo, idlm and sdtt at
            1 and 4 steps on halves and markov. Methods without a divergence are measured with any.
        steps: Passes of generators and samplers. Of a joint with L sites none follows the first that is at
            least L.
        seeds: Trainings of each cell.
        training: Steps of each training.
        batch: Batch size of each training.
        workers: Processes that train at the same time.
        summary: Measure nothing more, and write the table of what is finished.
    """

    out: str = "runs/gym"
    smoke: bool = False
    joints: tuple[Joint, ...] | None = None
    teachers: tuple[Literal["exact", "learnt"], ...] = ("exact", "learnt")
    methods: tuple[str, ...] | None = None
    divergences: tuple[str, ...] | None = None
    steps: tuple[int, ...] = attrs.field(default=(1, 2, 4, 8), validator=v.deep_iterable(v.ge(1)))
    seeds: int = attrs.field(default=3, validator=v.ge(1))
    training: int = attrs.field(default=300, validator=v.ge(1))
    batch: int = attrs.field(default=128, validator=v.ge(1))
    workers: int = attrs.field(default=2, validator=v.ge(1))
    summary: bool = False

    def run(self) -> str:
        """Measure what is not finished, write table and figures, and return the table.

        Raises:
            UsageError: for a method or divergence that there is not, or a folder of another training.
        """
        from dimo_gym.running import run  # torch is not needed to show the options

        return run(**{field.name: getattr(self, field.name) for field in attrs.fields(Gym)})
