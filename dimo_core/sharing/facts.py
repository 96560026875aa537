"""What is known about a generator that is exported: its run, its numbers, its conditions, its pieces."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dimo_core import conditions
from dimo_core.conditions import Condition
from dimo_core.errors import CheckpointError
from dimo_core.evaluation.table import RUN_TABLE, Table
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.sharing.impersonal import impersonal
from dimo_core.sharing.tracing import leaves
from dimo_core.teacher import Teacher

ENCODED = 256
"""Conditions that are encoded at a time."""

PIECES = 2**20
"""The most tokens of a space whose pieces are written out."""


@attrs.frozen(kw_only=True)
class Run:
    """What a run folder tells about its generator; of a generator folder alone nothing.

    Attributes:
        config: Its configuration, without the places of files.
        table: Its numbers.
    """

    config: Mapping[str, Any] = attrs.field(factory=dict)
    table: Table | None = None

    def noted(self, note: str) -> "Run":
        """The same, with a note below the numbers."""
        if self.table is None:
            return self
        return attrs.evolve(self, table=attrs.evolve(self.table, notes=(*self.table.notes, note)))

    @classmethod
    def of(cls, generator: Folder) -> "Run":
        """The run that the folder ``generator`` lies in, if it does.

        Raises:
            CheckpointError: when its files are damaged.
        """
        parent, _, name = generator.url.rpartition("/")
        run = Folder(parent or ".")
        if name != "generator" or not run.exists(CONFIG):
            return cls()
        config = impersonal(run.read_yaml(CONFIG))
        if not run.exists(RUN_TABLE):
            return cls(config=config)
        try:
            table = Table.from_dict(impersonal(run.read_json(RUN_TABLE)))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{run.path(RUN_TABLE)} holds no table of a run: {error!r}") from error
        return cls(config=config, table=table)


@attrs.frozen(kw_only=True, eq=False)
class Known:
    """Conditions that an export brings along.

    Attributes:
        kind: As of ``Conditioning``.
        names: As people read them.
        batch: Their tensors, on the CPU.
        complete: Whether there are no others.
    """

    kind: str
    names: tuple[str, ...]
    batch: Condition
    complete: bool

    @classmethod
    def of(cls, teacher: Teacher, raw: Sequence[Any], *, complete: bool) -> "Known":
        """Encode raw conditions; of equal ones the first.

        Args:
            teacher: Encodes them.
            raw: At least one.
            complete: Whether there are no others.
        """
        named = {teacher.describe(each): each for each in raw}
        given = [*named.values()]
        with torch.no_grad():
            parts = [teacher.encode_conditions(given[i : i + ENCODED]) for i in range(0, len(given), ENCODED)]
        batch = conditions.to(conditions.cat(parts), "cpu")
        return cls(kind=teacher.conditioning.kind, names=tuple(named), batch=batch, complete=complete)

    def first(self, count: int) -> Condition:
        """A batch of so many, in turn."""
        return conditions.index(self.batch, torch.arange(count) % len(self.names))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, as inputs of the graph are called."""
        return {name: tensor.contiguous() for name, tensor in leaves(self.batch)}


def pieces_of(teacher: Teacher, x: Tensor, c: Condition) -> list[str] | None:
    """The text of each code, if the text of a sample is that of its tokens, one after the other.

    Args:
        teacher: Says what tokens mean.
        x: Samples, by which it is looked at whether that is so.
        c: Their conditions.
    """
    space = teacher.tokens
    if space.modality != "text" or space.codes > PIECES:
        return None
    try:
        whole = teacher.texts(x, c)
        every = torch.arange(space.codes)
        one = conditions.index(c, torch.zeros_like(every))
        pieces = teacher.texts(every[:, None], one)
    except Exception:  # a teacher of others may take whole samples only, and says so in its own way
        return None
    joined = ["".join(pieces[code] for code in row) for row in x.tolist()]
    return list(pieces) if joined == list(whole) else None
