"""A generator's sample as one graph: conditions and random numbers in, tokens and pixels out."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram

from dimo_core.backbone import inference
from dimo_core.conditions import Condition, tree_map
from dimo_core.draws import Draws
from dimo_core.errors import DimoError, NumericalError, UsageError
from dimo_core.generator import Generator
from dimo_core.sharing.noise import GivenDraws, HeardDraws, Stream
from dimo_core.teacher import Teacher

BLOCK = 64
"""Samples whose random numbers are drawn together, as by `dimo sample`."""

CLOSE = 1e-4
"""How far pixels in [0, 1] of another program may be from those of this one."""


class Whole(nn.Module):
    """One call of ``Generator.sample`` and ``Teacher.decode``; all that is random in it is an input.

    Args:
        teacher: Decodes the tokens, where it can.
        generator: Draws them.
        like: A condition batch.
        streams: The random numbers.
    """

    def __init__(
        self, teacher: Teacher, generator: Generator, like: Condition, streams: Mapping[str, Stream]
    ) -> None:
        super().__init__()
        self.generator = generator
        self._teacher, self._like, self._streams = teacher, like, dict(streams)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tokens ``[B, L]`` and, where the teacher decodes, images ``[B, C, H, W]`` in [0, 1].

        Args:
            inputs: The tensors of the condition batch, then those of the streams.
        """
        left = iter(inputs)
        c = tree_map(lambda _: next(left), self._like)
        values = dict(zip(self._streams, left, strict=True))
        draws = GivenDraws(
            seed=0,
            phase="sample",
            total=len(inputs[0]),
            of=Draws(seed=0, phase="sample", total=len(inputs[0])),
            streams=self._streams,
            values=values,
        )
        x = self.generator.sample(c, draws)
        return (x, self._teacher.decode(x, c)) if "decode" in self._teacher.capabilities else (x,)


@attrs.frozen(kw_only=True, eq=False)
class Traced:
    """A graph, and what it was checked with.

    Attributes:
        program: The graph and its tensors, for a fixed number of samples B.
        conditions: Inputs: the tensors of a condition batch, by name.
        streams: Inputs: the random numbers, by name; they come after the conditions.
        noise: Those that it was checked with.
        outputs: What it gave for them, by name, as the generator itself does.
    """

    program: ExportedProgram
    conditions: Mapping[str, Tensor]
    streams: Mapping[str, Stream]
    noise: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All inputs by name, in order."""
        return {**self.conditions, **self.noise}

    @property
    def batch(self) -> int:
        """The number of samples B."""
        return len(self.outputs["tokens"])

    def check(self, found: Sequence[Tensor], who: str) -> float:
        """Compare what another program gave for the same inputs.

        Args:
            found: Its outputs, in order.
            who: What it is called in a message.

        Returns:
            The largest difference of a pixel; 0 where there are none.

        Raises:
            NumericalError: when a token differs, or pixels by more than ``CLOSE``.
        """
        worst = 0.0
        for (name, own), other in zip(self.outputs.items(), found, strict=True):
            same = own.shape == other.shape
            worst = max(worst, float((own.double() - other.double()).abs().max())) if same else torch.inf
            if worst > (CLOSE if own.is_floating_point() else 0):
                raise NumericalError(
                    f"{who} gives other {name} than the generator for the same inputs (they differ by up to "
                    f"{worst:g}), so it is not written. A generator whose passes depend on what was drawn "
                    "has no one graph."
                )
        return worst


def traced(teacher: Teacher, generator: Generator, c: Condition, seed: int = 0) -> Traced:
    """Follow one call of ``generator.sample`` and of ``teacher.decode``, on the CPU.

    Args:
        teacher: The teacher.
        generator: The generator, in eval mode.
        c: Conditions of B samples.
        seed: Seed of the samples that the graph is checked with.

    Raises:
        UsageError: when something in them cannot be followed.
        NumericalError: when the graph gives something else than the generator.
    """
    conditions = dict(leaves(c))
    count = len(next(iter(conditions.values())))
    if not 1 <= count <= BLOCK:
        raise UsageError(f"a graph is for 1 to {BLOCK} samples at a time, not {count}")
    heard = HeardDraws.listening(Draws(seed=seed, phase="sample", total=BLOCK).slice(0, count))
    with inference(generator):
        # What is read or computed once and kept is there before anything is followed.
        first = _outputs(teacher, generator.sample(c, heard), c)
        whole = Whole(teacher, generator, c, heard.streams).eval()
        inputs = (*conditions.values(), *heard.values.values())
        try:
            with quiet():
                program = torch.export.export(whole, inputs, strict=False)
        except DimoError:
            raise
        except Exception as error:  # torch's own, and whatever code of others raises when it is followed
            text = " ".join(str(error).split())[:300]
            raise UsageError(
                f"{type(generator).__name__} with the teacher {type(teacher).__name__} cannot be exported: "
                f"torch.export does not follow it ({type(error).__name__}: {text}). Its generator folder is "
                "for dimo alone."
            ) from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names files of this machine
        found = Traced(
            program=program,
            conditions=conditions,
            streams=dict(heard.streams),
            noise=dict(heard.values),
            outputs=first,
        )
        found.check(program.module()(*inputs), "the graph")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Within, torch neither logs nor prints a graph that it could not finish: the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def leaves(c: Condition, name: str = "condition") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a condition batch by name: ``condition``, or ``condition.text`` and so on."""
    if isinstance(c, Tensor):
        yield name, c
        return
    pairs = c.items() if isinstance(c, dict) else enumerate(c)
    for key, value in pairs:
        yield from leaves(value, f"{name}.{key}")


def _outputs(teacher: Teacher, x: Tensor, c: Condition) -> dict[str, Tensor]:
    images: dict[str, Float[Tensor, "B C H W"]] = {}
    if "decode" in teacher.capabilities:
        images = {"images": teacher.decode(x, c)}
    return {"tokens": x, **images}


def sizes(streams: Mapping[str, Stream]) -> list[dict[str, Any]]:
    """The streams as plain data."""
    return [attrs.asdict(stream) | {"shape": list(stream.shape)} for stream in streams.values()]
