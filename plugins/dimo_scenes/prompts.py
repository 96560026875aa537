"""Prompts for teachers of the scenes: ``ScenePrompts``."""

import attrs

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.sources import Conditions, ConditionStream
from dimo_scenes.combinations import Choices
from dimo_scenes.drawing import draw_caption, uniforms
from dimo_scenes.evaluation_prompts import balanced_captions


@attrs.frozen(kw_only=True)
class ScenePromptStream(ConditionStream):
    """Independent training captions, by position.

    Attributes:
        seed: The seed that fixes every position.
    """

    seed: int

    def read(self, start: int, count: int) -> list[str]:
        """The captions at global positions start .. start + count - 1."""
        numbers = uniforms("prompts", self.seed, start, count).tolist()
        return [draw_caption(u, Choices()).text for u in numbers]


@attrs.frozen(kw_only=True)
class ScenePrompts(Conditions):
    """Captions of scenes: those of training as an endless stream, those that were held out for evaluation."""

    def open(self, conditioning: Conditioning, *, seed: int) -> ScenePromptStream:
        """Start drawing.

        Raises:
            UsageError: when the teacher takes no text.
        """
        _check(conditioning)
        return ScenePromptStream(seed=seed)

    def balanced(self, conditioning: Conditioning, count: int) -> list[str]:
        """Held-out prompts, the five tags in turn.

        Raises:
            UsageError: as ``open`` does.
        """
        _check(conditioning)
        return [caption.text for caption in balanced_captions(count)]


def _check(conditioning: Conditioning) -> None:
    if conditioning.kind != "text":
        raise UsageError(
            f"conditions 'scene-prompts' are text, but the teacher takes {conditioning.kind!r} conditions."
            " Choose a source of that kind: --conditions NAME."
        )
