"""Prompts as conditions: the whole sequence, which of its sites are the model's, and what is padding."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.tokens import Given, TokenSpace


@attrs.frozen(kw_only=True)
class AnswerSpace(TokenSpace):
    """Tokens of a prompt, padded on the left, and of an answer, which alone is the model's.

    Attributes:
        answer: How many sites, the last ones, are the answer.
    """

    answer: int = 1

    def given(self, c: dict[str, Tensor]) -> Given:
        """Padding and prompt."""
        return Given(tokens=c["tokens"], valid=c["valid"])

    @property
    def prompt(self) -> int:
        """Sites before the answer."""
        return self.length - self.answer

    def encode(self, prompts: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
        """A batch: ``tokens``, ``valid`` and ``attend``, each [B, L].

        Args:
            prompts: Ids of each.
            padding: The id before them, which no site sees.

        Raises:
            UsageError: for one that is longer than the sites there are.
        """
        tokens = torch.full((len(prompts), self.length), padding)
        tokens[:, self.prompt :] = self.mask_id
        attend = torch.zeros_like(tokens, dtype=torch.bool)
        attend[:, self.prompt :] = True
        valid = attend.clone()
        for row, ids in enumerate(prompts):
            if len(ids) > self.prompt:
                raise UsageError(
                    f"a prompt has {len(ids)} tokens, and {self.prompt} are kept for it. Set "
                    f"--teacher.prompt to {len(ids)} or more, or leave it out."
                )
            begin = self.prompt - len(ids)
            tokens[row, begin : self.prompt] = torch.tensor(ids, dtype=torch.long)
            attend[row, begin:] = True
        return {"tokens": tokens, "valid": valid, "attend": attend}

    def skeleton(self, count: int) -> dict[str, Tensor]:
        """A batch of this many samples, whose prompts say nothing."""
        return self.encode([[0] * self.prompt] * count, 0)

    def null(self, c: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with masks in place of the prompt; what is seen stays what it was."""
        return {**c, "tokens": c["tokens"].masked_fill(~c["valid"], self.mask_id)}

    def answers(self, c: dict[str, Tensor], texts: Sequence[Sequence[int]], fill: int) -> Tensor:
        """Whole sequences ``[B, L]`` with these answers, cut, or filled up with the id ``fill``."""
        x = c["tokens"].clone()
        for row, ids in enumerate(texts):
            whole = [*ids[: self.answer], *[fill] * (self.answer - len(ids))]
            x[row, self.prompt :] = torch.tensor(whole, device=x.device)
        return x
