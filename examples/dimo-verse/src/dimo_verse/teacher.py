"""The teacher ``verse``: lines of letters, given a prompt."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import validators as v
from dimo_core.conditions import Conditioning
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.urls import from_anywhere
from dimo_core.files.weights import sha256
from dimo_core.sources import Examples
from dimo_core.suggestions import Choice, EvaluationPlan, Recipe, Sampling
from dimo_core.teacher import Preview, Teacher
from dimo_core.tokens import TokenSpace
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_verse.network import ALPHABET, MASK, VerseNetwork

PROMPT = 32
"""Letters of a prompt that are read."""

PROMPTS = {"name": "prompt-list", "prompts": ["of the sea", "of the night", "of a garden"]}


def numbers(text: str, length: int) -> list[int]:
    """The numbers of the letters of a text, others left out, filled up with MASK."""
    found = [ALPHABET.index(letter) for letter in text.lower() if letter in ALPHABET][:length]
    return found + [MASK] * (length - len(found))


@attrs.frozen(kw_only=True)
class Verse(Teacher):
    """Lines of letters, given a prompt.

    Attributes:
        weights: File of weights (safetensors); null for random ones, which are good for trying out alone.
        length: Letters of a line.
        width: Width of the network, a multiple of 4.
    """

    capabilities = frozenset({"guidance"})

    weights: str | None = attrs.field(default=None, converter=from_anywhere)
    length: int = attrs.field(default=24, validator=v.gt(1))
    width: int = attrs.field(default=32, validator=v.gt(3))

    @property
    def tokens(self) -> TokenSpace:
        """A row of letters."""
        return TokenSpace(length=self.length, codes=len(ALPHABET), mask_id=MASK, modality="text")

    @property
    def conditioning(self) -> Conditioning:
        """Prompts."""
        return Conditioning(kind="text")

    def skeleton(self) -> VerseNetwork:
        """The network with arbitrary weights; no file is read."""
        return VerseNetwork(self.length, self.width)

    @cached_property
    def _tensors(self) -> dict[str, nn.Parameter]:
        """The weights, once for all networks that share them."""
        if self.weights is None:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                return dict(self.skeleton().named_parameters())
        try:
            loaded = load_file(self.weights)
            self.skeleton().load_state_dict(loaded)  # complains about names and shapes
        except Exception as error:
            raise CheckpointError(f"cannot read the weights {self.weights!r}: {error}") from error
        return {name: nn.Parameter(tensor) for name, tensor in loaded.items()}

    def network(self, *, share: bool = False) -> VerseNetwork:
        """The network with the teacher's tensors (``share``), or with copies that may be trained."""
        network = self.skeleton().eval()
        own = {name: p if share else nn.Parameter(p.detach().clone()) for name, p in self._tensors.items()}
        network.load_state_dict(own, assign=True)
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Tensor:
        """The letters of each prompt, ``[B, P]``.

        Raises:
            UsageError: for what is no text.
        """
        if wrong := [prompt for prompt in raw if not isinstance(prompt, str)]:
            raise UsageError(f"a prompt is text, not {wrong[0]!r}")
        return torch.tensor([numbers(prompt, PROMPT) for prompt in raw])

    def null_condition(self, c: Tensor) -> Tensor:
        """The empty prompt."""
        return torch.full_like(c, MASK)

    def tokenize(self, examples: Examples, c: Tensor) -> Tensor:
        """Letters of lines, cut or filled up with spaces, such as those of real text in an evaluation."""
        if examples.lines is None:
            return super().tokenize(examples, c)
        found = torch.tensor([numbers(line, self.length) for line in examples.lines])
        return torch.where(found == MASK, ALPHABET.index(" "), found)

    def texts(self, x: Tensor, c: Tensor) -> tuple[str, ...]:
        """What samples say, for metrics that read."""
        return tuple("".join(ALPHABET[code] for code in row) for row in x.tolist())

    def preview(self, x: Tensor, c: Tensor) -> Preview:
        """What people look at: one line a sample."""
        return Preview(lines=self.texts(x, c))

    def provenance(self) -> Mapping[str, str]:
        """The SHA-256 of the weights file: generators are bound to it."""
        return {} if self.weights is None else {"weights": sha256(Path(self.weights).read_bytes())}

    def recipes(self) -> Mapping[str, Recipe]:
        """One preset, for trying out."""
        return {"fast": {"conditions": PROMPTS, "train": {"steps": 200, "batch_size": 16}}}

    def samplings(self) -> Mapping[str, Sampling]:
        """One way to sample it in many steps."""
        how = Sampling(
            steps=self.length,
            sampler=Choice("random-order"),
            guidance=Choice("constant", {"scale": 1.5}),
            source="a letter a step",
        )
        return {"long": how}

    def evaluation(self) -> EvaluationPlan:
        """Entropy of the letters; lower means repetition."""
        return EvaluationPlan(
            metrics=(Choice("entropy"),),
            best="-entropy",
            samples=256,
            conditions=PROMPTS,
            steps=(16, 4, 1),
            sampler=Choice("random-order"),
        )
