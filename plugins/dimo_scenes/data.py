"""Scenes with captions, and how they are divided: ``Scenes``."""

from collections.abc import Sequence

import attrs
import torch
from attrs import validators as v

from dimo_core.choice import Choice
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_scenes.captions import TAGS, Caption
from dimo_scenes.combinations import Choices
from dimo_scenes.composing import compose, handwriting
from dimo_scenes.drawing import draw_caption, draw_items, uniforms
from dimo_scenes.evaluation_prompts import balanced_captions

SPLITS = ("teacher", "reader", "reference", "floor")
"""The parts; ``floor`` shows the teacher's handwriting and the prompts of the evaluation."""


@attrs.frozen(kw_only=True)
class Scenes(Data):
    """One or two coloured handwritten digits in 16x16 pixels, with captions.

    A scene is a function of seed, split and position; nothing but the handwriting is stored.

    Attributes:
        scenes: Scenes to train on.
        held_out: Scenes in each of the other parts.
        seed: Seed of captions, colours and places.
    """

    scenes: int = attrs.field(default=20000, validator=v.gt(0))
    held_out: int = attrs.field(default=2000, validator=v.gt(0))
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def splits(self) -> Sequence[str]:
        """``teacher`` to train on, ``reader``, ``reference`` and ``floor``."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Make one part; its labels are the tags of the captions.

        ``details`` hold ``digits``, ``colours`` and ``places``, [N, 2], -1 where there is no second digit.

        Raises:
            UsageError: for an unknown split.
        """
        if split not in SPLITS:
            raise UsageError(f"data 'scenes' has no split {split!r}. Known: {', '.join(SPLITS)}.")
        return self.read(split, 0, self.scenes if split == "teacher" else self.held_out)

    def read(self, split: str, start: int, count: int) -> Examples:
        """The scenes start .. start + count - 1 of a part, of which there is no end."""
        numbers = uniforms(split, self.seed, start, count)
        choices, rows = Choices(everything=split == "reader"), numbers.tolist()
        captions = self._captions(split, start, rows, choices)
        items = [draw_items(caption, u, choices) for caption, u in zip(captions, rows, strict=True)]
        details = {
            f"{name}s": torch.tensor([[*(getattr(i, name) for i in found), -1][:2] for found in items])
            for name in ("digit", "colour", "place")
        }
        return Examples(
            images=compose(items, numbers, handwriting("teacher" if split == "floor" else split)),
            labels=torch.tensor([TAGS.index(caption.tag) for caption in captions]),
            classes=TAGS,
            texts=tuple(caption.text for caption in captions),
            details=details,
        )

    def _captions(
        self, split: str, start: int, rows: Sequence[Sequence[float]], choices: Choices
    ) -> list[Caption]:
        if split in ("reference", "floor"):
            return balanced_captions(start + len(rows))[start:]
        return [draw_caption(u, choices) for u in rows]

    def evaluation(self) -> EvaluationPlan:
        """Held-out prompts, judged by a reader, and against handwriting, that no teacher saw."""
        return EvaluationPlan(
            data=Choice("scenes"),
            split="reference",
            floor_split="floor",
            features=Choice("scenes-reader"),
            metrics=(Choice("composition"), Choice("fidelity")),
            best="-overall",
            conditions=Choice("scene-prompts"),
            samples=1000,
            steps=(32, 16, 8, 4, 2, 1),
            sampler=Choice("maskgit", {"schedule": "cosine", "counts": "cumulative", "gumbel": 2.0}),
            shown=("overall", *TAGS, "readable", "fid", "precision", "recall", "kid"),
        )
