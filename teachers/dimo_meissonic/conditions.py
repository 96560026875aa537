"""``PromptConditions``: condition batches of prompts, micro-conditions and the negative prompt."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core import conditions
from dimo_core.device import transfer
from dimo_core.errors import UsageError
from dimo_meissonic.text import PromptEncoder


@attrs.frozen(kw_only=True, eq=False, slots=False)
class PromptConditions:
    """Makes batches of ``text`` [B, S, J], ``pooled`` [B, D] and ``micro`` [B, 5].

    Attributes:
        prompts: Gives the text tower with its tokenizer, which are read when they are first needed.
        negative_prompt: The prompt of the guidance's other branch.
        micro: Width, height, two crops, score.
    """

    prompts: Callable[[], PromptEncoder]
    negative_prompt: str
    micro: Float[Tensor, " 5"]

    @cached_property
    def _negative(self) -> dict[torch.device, dict[str, Tensor]]:
        """The negative prompt's embedding, encoded once and kept on each device that asked for it."""
        text, pooled = self.prompts()([self.negative_prompt])
        return {text.device: {"text": text, "pooled": pooled}}

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """A batch of prompts: embeddings on the text tower's device, ``micro`` on the CPU.

        Raises:
            UsageError: for a condition that is no text.
        """
        for prompt in raw:
            if not isinstance(prompt, str):
                raise UsageError(f"the teacher 'meissonic' takes prompts, not {prompt!r}")
        text, pooled = self.prompts()(raw)
        return {"text": text, "pooled": pooled, "micro": self.micro.repeat(len(raw), 1)}

    def skeleton(self, count: int, text: tuple[int, int], pooled: int) -> dict[str, Tensor]:
        """Zeros of these sizes; the text tower is not read.

        Args:
            count: Samples B.
            text: Words S, and their width J.
            pooled: Width D.
        """
        return {
            "text": torch.zeros(count, *text),
            "pooled": torch.zeros(count, pooled),
            "micro": self.micro.repeat(count, 1),
        }

    def null(self, c: dict[str, Tensor]) -> dict[str, Tensor]:
        """The negative prompt, with the micro-conditions of each sample."""
        text, device = c["text"], c["text"].device
        if device.type == "meta":
            return conditions.tree_map(torch.empty_like, c)  # type: ignore[no-any-return]
        if device not in self._negative:
            own = next(iter(self._negative.values()))
            self._negative[device] = {name: transfer(tensor, device) for name, tensor in own.items()}
        null = {
            name: tensor.to(text.dtype).expand(len(text), *tensor.shape[1:])
            for name, tensor in self._negative[device].items()
        }
        return {**null, "micro": c["micro"]}
