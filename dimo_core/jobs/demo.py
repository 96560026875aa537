"""``dimo demo``: a generator and its teacher in memory, which draw a few samples when they are asked."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.device import find_device
from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import SITES, Drawing, Opened
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import generator_folder, load_generator, read_card
from dimo_core.generator import Generator
from dimo_core.jobs.sample import BLOCK, conditions_of
from dimo_core.limits import PROMPT, WHOLE
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling
from dimo_core.settings import Precision
from dimo_core.teacher import Teacher
from dimo_core.texts import passes_of, steps_of

Who = Literal["generator", "teacher"]

HOTTEST = 100.0
"""The largest temperature: far above what is of use."""


@attrs.frozen(kw_only=True)
class Wish:
    """What is to be drawn.

    Attributes:
        who: The generator in its steps, or the teacher in its own.
        condition: A class or prompt; empty for several in turn.
        seed: Of every draw.
        temperature: Divides the generator's logits; None for its own.
        count: How many samples.
    """

    who: Who = "generator"
    condition: str = ""
    seed: int = 0
    temperature: float | None = None
    count: int = 16

    @classmethod
    def of(cls, given: object, most: int) -> "Wish":
        """A wish from plain data of others.

        Args:
            given: Names and values.
            most: Samples that may be drawn at once.

        Raises:
            UsageError: for what is no wish.
        """
        if not isinstance(given, dict) or (strange := given.keys() - set(attrs.fields_dict(cls))):
            names = ", ".join(attrs.fields_dict(cls))
            found = ", ".join(map(repr, strange)) if isinstance(given, dict) else f"a {type(given).__name__}"
            raise UsageError(f"an object with {names} is wanted, and {found} was given"[:500])
        wish = {**{f.name: f.default for f in attrs.fields(cls)}, **given}
        if wish["who"] not in ("generator", "teacher"):
            raise UsageError(f"who draws is 'generator' or 'teacher', not {wish['who']!r}"[:200])
        if not isinstance(wish["condition"], str) or len(wish["condition"]) > PROMPT:
            raise UsageError(f"the condition is a text of at most {PROMPT:,} characters")
        for name, least, largest in (("seed", 0, WHOLE), ("count", 1, most)):
            value = wish[name]
            if type(value) is not int or not least <= value <= largest:
                raise UsageError(f"{name} is a whole number from {least} to {largest}, not {value!r}"[:200])
        heat = wish["temperature"]
        number = type(heat) in (int, float) and 0 < heat <= HOTTEST
        if not number and heat is not None:
            raise UsageError(f"the temperature is above 0 and at most {HOTTEST:g}, not {heat!r}"[:200])
        return cls(**wish)


@attrs.frozen(kw_only=True, eq=False)
class Answer:
    """What was drawn.

    Attributes:
        images: Pictures, where there are some.
        lines: Texts otherwise.
        names: The condition of each sample.
        seconds: Time to draw the tokens, decoding not counted.
        title: Who drew, in how many steps.
        cost: Forward passes of a sample.
    """

    images: UInt8[Tensor, "B C H W"] | None
    lines: tuple[str, ...]
    names: tuple[str, ...]
    seconds: float
    title: str
    cost: str


class Demonstration:
    """A generator with its teacher; one thread at a time may draw.

    Args:
        path: A generator folder, or a run folder with one.
        device: ``auto``, or a torch device.
        precision: How the networks compute.
        sampling: How the teacher is sampled; its first named sampling, or its evaluation's longest, if None.

    Raises:
        CheckpointError: when there is no whole generator.
        UsageError: for an unknown sampling.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        sampling: str | None = None,
    ) -> None:
        self.device, self.precision = find_device(device), precision
        self.source: Folder = generator_folder(path)
        self.card: Mapping[str, Any] = read_card(self.source)
        teacher, self.generator = load_generator(self.source.url, self.device)
        self.teacher: Teacher = teacher.on(self.device)
        self.way = TeacherSampling.named(teacher, sampling, Registry.discover())
        self._other: tuple[float, Generator] | None = None
        self.draw(Wish(count=1))  # what loads on first use does so now, and what fails fails now

    @property
    def most(self) -> int:
        """Samples that are drawn at once."""
        return max(1, min(BLOCK, SITES // self.teacher.tokens.length))

    def facts(self) -> dict[str, Any]:
        """What a page shows before anything is drawn: plain data."""
        sampling = self.generator.sampling()
        return {
            "title": f"{self.card['teacher']['name']}, {steps_of(self.generator.steps)}",
            "generator": f"generator, {steps_of(self.generator.steps)}",
            "teacher": self.way.title,
            "kind": self.teacher.conditioning.kind,
            "classes": list(self.teacher.conditioning.classes),
            "temperature": sampling.get("temperature"),
            "most": self.most,
            "pictures": "decode" in self.teacher.capabilities,
            "device": str(self.device),
        }

    def draw(self, wish: Wish) -> Answer:
        """Draw what is wished; sample i of a seed is that of `dimo sample`.

        Raises:
            UsageError: for a condition that the teacher does not take, or a temperature where there is none.
            NumericalError: when the logits are not finite.
        """
        given = [wish.condition] if wish.condition else None
        raw = conditions_of(self.teacher, self.card, given, wish.count)
        if wish.who == "teacher":
            opened, title = Opened.teacher(self.teacher, self._network, self.way), self.way.title
        else:
            generator = self._at(wish.temperature)
            opened, title = Opened.generator(generator), f"generator, {steps_of(generator.steps)}"
        drawing = Drawing(
            teacher=self.teacher,
            seed=wish.seed,
            phase="sample",
            device=self.device,
            precision=self.precision,
            batch_size=self.most,
            block=BLOCK,
        )
        drawn = drawing.draw(raw, opened)
        return Answer(
            images=drawn.samples.images,
            lines=() if drawn.samples.images is not None else self._lines(drawn.tokens, raw),
            names=tuple(map(self.teacher.describe, raw)),
            seconds=drawn.seconds,
            title=title,
            cost=passes_of(drawn.passes),
        )

    def _lines(self, tokens: Tensor, raw: Any) -> tuple[str, ...]:
        with torch.no_grad():
            c = self.teacher.encode_conditions(list(raw))
        try:
            return tuple(self.teacher.texts(tokens, c))
        except UsageError:  # they are no text
            return self.teacher.preview(tokens, c).lines or ()

    def _at(self, temperature: float | None) -> Generator:
        """The generator at a temperature; one other than its own is kept in memory."""
        if temperature is None or temperature == self.generator.sampling().get("temperature"):
            return self.generator
        if self._other is None or self._other[0] != temperature:
            self._other = None  # before the next one is read
            how: Any = {"temperature": temperature, "teacher": self.teacher}
            self._other = (temperature, load_generator(self.source.url, self.device, **how)[1])
        return self._other[1]

    @cached_property
    def _network(self) -> Backbone:
        """The teacher's network, which is read when it first draws."""
        return self.teacher.network(share=True).to(self.device).eval().requires_grad_(False)
