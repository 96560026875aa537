"""What a comparison compares: the teacher by sampler and number of steps, and generators by their own."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import attrs
import torch

from dimo_core.backbone import Backbone
from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import Method, Opened
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import (
    CARD,
    generator_folder,
    load_generator,
    of_card,
    read_card,
    strangers,
)
from dimo_core.files.weights import sha256
from dimo_core.generator import GeneratorOptions
from dimo_core.guidance import Guidance
from dimo_core.registry import Registry, built
from dimo_core.sampler import Sampler, TeacherSampling
from dimo_core.suggestions import ASSUMED, Choice
from dimo_core.teacher import Teacher
from dimo_core.texts import steps_of


@attrs.frozen(kw_only=True)
class TeacherRows:
    """Which rows of the teacher are asked for.

    Attributes:
        samplers: Multi-step samplers; empty for that of the evaluation plan.
        steps: Step counts of each; empty for those of the plan.
        samplings: Named samplings of the teacher, besides.
        guidance: Their guidance; None for that of the plan.
    """

    samplers: tuple[Choice, ...] = ()
    steps: tuple[int, ...] = ()
    samplings: tuple[str, ...] = ()
    guidance: Choice | None = None

    def ways(self, teacher: Teacher, registry: Registry) -> list[tuple[str, TeacherSampling]]:
        """Each row with the name of its series; a sampler of the plan's name has the plan's options too.

        Raises:
            UsageError: for an unknown sampler, guidance or sampling, or wrong options of one; a
                ``PluginError`` where the plan named it.
        """
        plan = teacher.evaluation() or ASSUMED
        own, counts, whose = plan.sampler, self.steps or plan.steps, plan.whose(teacher)
        asked = self.guidance or plan.guidance
        guidance: Guidance = built(registry, "guidance", asked, "" if self.guidance else whose)
        found = []
        chosen = self.samplers or (() if self.samplings and not self.steps else (own,))
        for choice in chosen:
            full = Choice(choice.name, {**(own.options if choice.name == own.name else {}), **choice.options})
            sampler: Sampler = built(registry, "sampler", full, whose if choice is own else "")
            series = choice.name if choice is own else _series(choice)
            ways = [TeacherSampling(steps=n, sampler=sampler, guidance=guidance) for n in counts]
            found += [(series, way) for way in ways]
        for name in self.samplings:
            way = TeacherSampling.named(teacher, name, registry)
            found.append((name, way if self.guidance is None else attrs.evolve(way, guidance=guidance)))
        return found


def teacher_methods(
    teacher: Teacher,
    ways: Sequence[tuple[str, TeacherSampling]],
    device: torch.device,
    facts: Mapping[str, Any],
) -> list[Method]:
    """A method for each way of sampling a teacher, in many steps.

    Args:
        teacher: The teacher.
        ways: Name of the series, and how it is sampled.
        device: Where its network goes.
        facts: The teacher's ``identity``.
    """

    @cache
    def network() -> Backbone:
        return teacher.network(share=True).to(device)

    def method(series: str, way: TeacherSampling) -> Method:
        return Method(
            name=f"{series}, {steps_of(way.steps)}",
            kind="teacher",
            series=series,
            steps=way.steps,
            identity={**facts, **way.as_dict()},
            open=lambda: Opened.teacher(teacher, network(), way),
            sampling=way.name,
            drawn=way.as_dict(),
        )

    return [method(series, way) for series, way in ways]


def generator_methods(
    paths: Sequence[str],
    temperatures: Sequence[float],
    teacher: Teacher,
    device: torch.device,
    registry: Registry,
    facts: Mapping[str, Any],
    steps: Sequence[int] = (),
) -> list[Method]:
    """A method for each generator, each number of steps and each temperature, if there are any.

    Args:
        paths: Generator folders, or run folders.
        temperatures: Sampling temperatures; empty for each generator's own.
        teacher: That of all of them.
        device: Where they go.
        registry: The plugins that their folders name.
        facts: The teacher's ``identity``.
        steps: Steps of a sample; empty for each generator's own.

    Raises:
        CheckpointError: when a generator is damaged.
        UsageError: when there is no generator in a folder, for one of another teacher, and for steps that
            one cannot take.
    """
    folders = [generator_folder(path) for path in paths]
    found = []
    provenance = dict(teacher.provenance()) if folders else {}

    def opened(**which: Any) -> Opened:
        return Opened.generator(load_generator(device=device, registry=registry, teacher=teacher, **which)[1])

    for folder, label in zip(folders, labels([folder.url for folder in folders]), strict=True):
        card = _own_card(folder, provenance)
        saved: GeneratorOptions = of_card(registry, "generator", card["generator"], folder)
        own = {**facts, "generator": sha256(folder.read(CARD))}
        for options, t in product(_in_steps(saved, steps, teacher), temperatures or (None,)):
            taken = (
                "" if options.steps == 1 and temperatures and not steps else f", {steps_of(options.steps)}"
            )
            hot = "" if t is None else f", T = {t:g}"
            changed: dict[str, Any] = {} if options is saved else {"steps": options.steps}
            changed |= {} if t is None else {"temperature": t}
            which = {"temperature": None, "steps": None} | changed
            found.append(
                Method(
                    name=f"{label}{taken}{hot}",
                    kind="generator",
                    series=label,
                    steps=options.steps,
                    identity={**own, **changed},
                    open=partial(opened, path=folder.url, **which),
                    temperature=t,
                    drawn={**card["generator"], **changed},
                )
            )
    return found


def _own_card(folder: Folder, provenance: Mapping[str, str]) -> dict[str, Any]:
    """The card of a generator of the teacher with this provenance."""
    card = read_card(folder)
    if wrong := strangers(card, provenance):
        raise UsageError(
            f"generator {folder.url!r} was distilled from another teacher: the SHA-256 of its "
            f"{', '.join(wrong)} is another. Its teacher is {card['teacher']}: compare it with that one "
            "(--teacher and its options), and put both results in one table with --merge."
        )
    return card


def _in_steps(saved: GeneratorOptions, steps: Sequence[int], teacher: Teacher) -> list[GeneratorOptions]:
    """A generator's options for each number of steps, of which none is impossible with this teacher."""
    found = [saved.with_steps(count) for count in steps]
    with torch.device("meta"):  # which costs nothing, and so nothing is drawn for a mistake
        for options in found:
            options.build(teacher, skeleton=True)
    return found or [saved]


def labels(urls: Sequence[str]) -> list[str]:
    """A short name for each folder: as much of the end of its path as tells it from the others."""
    parts = [[part for part in url.split("/") if part] or [url] for url in urls]
    for part in parts:
        while len(part) > 1 and part[-1] in ("generator", "checkpoints", "best"):
            part.pop()
    depth = 1
    while depth < max(map(len, parts), default=0) and len({tuple(p[-depth:]) for p in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _series(choice: Choice) -> str:
    options = ", ".join(f"{name}={value}" for name, value in choice.options.items())
    return choice.name + (f" ({options})" if options else "")
