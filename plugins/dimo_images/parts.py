"""How your own images are divided: ``part_of``."""

from collections.abc import Sequence

from dimo_core.draws import permutation
from dimo_core.errors import UsageError

SPLITS = ("train", "held-out")
"""Names of the parts."""


def part_of(labels: Sequence[int], split: str, *, held_out: float, seed: int) -> list[int]:
    """Positions of the examples in ``split``, in order; the same share of every class is held out.

    Args:
        labels: Class of each example.
        split: One of ``SPLITS``.
        held_out: Share of each class in ``held-out``, rounded down.
        seed: Seed of the choice.

    Raises:
        UsageError: for an unknown split, or an empty one.
    """
    if split not in SPLITS:
        raise UsageError(f"these data have no split {split!r}. Known: {', '.join(SPLITS)}.")
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    chosen: set[int] = set()
    for label, positions in members.items():
        order = permutation(seed, 0, len(positions), "held-out", label)
        chosen |= {positions[i] for i in order[: int(held_out * len(positions))]}
    part = [i for i in range(len(labels)) if (i in chosen) == (split == "held-out")]
    if not part:
        raise UsageError(
            f"the split {split!r} of {len(labels)} images is empty: change held_out ({held_out})."
        )
    return part
