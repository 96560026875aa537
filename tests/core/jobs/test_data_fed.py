"""`dimo run` with objectives that read data: what they are fed with, and that a run goes on where it was."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.config.distil import resolve_job
from dimo_core.draws import Draws
from dimo_core.errors import CheckpointError, ConfigError, PluginError, UsageError
from dimo_core.jobs.distil import RunResult, distill, run
from dimo_core.method.data_start import DimoData, Idlm
from dimo_core.method.few_step import FewStep
from dimo_core.method.masked_modelling import MaskedModelling
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
    Stream,
)
from dimo_core.sources import Data, Examples, Picture, PictureStream

QUICK = {"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "sample_every": 0}


@attrs.frozen(kw_only=True)
class Codes(Data):
    """Ten examples that are tokens already.

    Attributes:
        shift: Makes other examples.
        kind: What they are: tokens, lines, or tokens of another space.
    """

    shift: int = 0
    kind: str = "tokens"

    def splits(self) -> tuple[str, ...]:
        return ("all",)

    def load(self, split: str) -> Examples:
        labels = torch.arange(10) % 2
        if self.kind == "lines":
            return Examples(lines=("a line",) * 10, labels=labels, classes=("a", "b"))
        tokens = (torch.arange(40) * 7 + self.shift) % (5 if self.kind == "tokens" else 9)
        return Examples(tokens=tokens.view(10, 4), labels=labels, classes=("a", "b"))


class Sheets(PictureStream):
    """Two shards of four pictures."""

    classes, shards, max_broken = ("a", "b"), ("one", "two"), 0.0

    def read(self, shard: str) -> Iterator[Picture]:
        for i in range(4):
            image = torch.full((1, 2, 2), 10 * i + len(shard), dtype=torch.uint8)
            yield Picture(key=f"{shard}/{i}", label=i % 2, image=image)


@attrs.frozen(kw_only=True)
class Streamed(Data):
    """Data that are encoded into a cache."""

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def load(self, split: str) -> Examples:
        raise AssertionError("streamed data are not loaded")

    @property
    def streams(self) -> bool:
        return True

    def open(self, split: str) -> PictureStream:
        return Sheets()


def small(teacher: Any, out: Path, **options: Any) -> RunResult:
    given = {"objective": DimoData(), "data": Codes(), "train": QUICK, "device": "cpu", **options}
    return distill(teacher=teacher, out=str(out), **given)


def weights(result: RunResult) -> dict[str, Tensor]:
    return dict(result.generator.state_dict())


def test_a_run_that_was_interrupted_sees_the_same_data(tiny_teacher: Any, tmp_path: Path) -> None:
    whole = weights(small(tiny_teacher, tmp_path / "whole"))
    small(tiny_teacher, tmp_path / "parts", train={**QUICK, "steps": 2})
    parts = weights(small(tiny_teacher, tmp_path / "parts", resume=True))
    other = weights(small(tiny_teacher, tmp_path / "other", data=Codes(shift=1)))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())


def test_a_run_is_not_resumed_with_other_data(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tiny_teacher, tmp_path / "run", train={**QUICK, "steps": 2})
    load = Codes.load
    monkeypatch.setattr(Codes, "load", lambda self, split: load(attrs.evolve(self, shift=1), split))
    with pytest.raises(CheckpointError, match="the SHA-256 of data is another"):
        small(tiny_teacher, tmp_path / "run", resume=True)


def test_streamed_data_are_encoded_once_into_a_cache(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()

    def encode(self: Any, images: Tensor, c: Tensor) -> Tensor:
        seen.append(len(images))
        return (images.flatten(1) * 255).round().long() % 5

    monkeypatch.setattr(type(tiny_teacher), "encode", encode)
    first = small(tiny_teacher, tmp_path / "a", data=Streamed(), tokens=str(tmp_path / "tokens"))
    assert 8 == sum(seen)
    second = small(tiny_teacher, tmp_path / "b", data=Streamed(), tokens=str(tmp_path / "tokens"))
    assert 8 == sum(seen)
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("lines", "TinyTeacher makes no tokens of texts. Choose data of images or tokens with --data"),
        (
            "wide",
            "tokens of 4 sites from 0 to 8 were given; the teacher's have 4 sites and codes from 0 to 4.",
        ),
    ],
)
def test_data_that_the_teacher_cannot_read_are_refused(
    tiny_teacher: Any, tmp_path: Path, kind: str, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        small(tiny_teacher, tmp_path / "run", data=Codes(kind=kind))


def test_an_objective_without_data_takes_none(tiny_teacher: Any) -> None:
    with pytest.raises(ConfigError, match=r"objective 'dimo' reads no data\. Leave it out"):
        resolve_job({"teacher": tiny_teacher, "data": {"name": "digits"}})
    with pytest.raises(ConfigError, match="--tokens is for data that are streamed"):
        resolve_job({"teacher": tiny_teacher, "tokens": "somewhere"})


def test_log_and_report_say_steps_and_what_is_used(tiny_teacher: Any, tmp_path: Path) -> None:
    how: Any = {"train": QUICK, "device": "cpu", "eval": {"enabled": False}}
    distill(teacher=tiny_teacher, objective="pairs", data=Codes(), out=str(tmp_path / "pairs"), **how)
    distill(teacher=tiny_teacher, generator=FewStep(steps=3), out=str(tmp_path / "dimo"), **how)
    texts = {
        name: [html.unescape((tmp_path / name / file).read_text()) for file in ("run.log", "report.html")]
        for name in ("pairs", "dimo")
    }
    (name,) = re.findall(r"distilling (\S+) with pairs, \d+ steps of", texts["pairs"][0])
    assert f"distilling {name} with dimo, jeffrey, " in texts["dimo"][0]
    assert (
        f"A generator of 1 step, distilled from the teacher {name} by the objective pairs: "
        in texts["pairs"][1]
    )
    lead = f"A generator of 3 steps, distilled from the teacher {name} by the objective dimo with the "
    assert f"{lead}divergence jeffrey: " in texts["dimo"][1]
    assert f"<h1>{name}, 3 steps</h1>" in texts["dimo"][1]


def test_an_objective_that_reads_data_needs_some(tiny_teacher: Any) -> None:
    with pytest.raises(ConfigError, match="objective 'idlm' reads data: choose them with --data NAME"):
        resolve_job({"teacher": tiny_teacher, "objective": "idlm"})


def test_the_teachers_own_data_are_the_default() -> None:
    job = resolve_job({"teacher": "maskgit", "objective": "idlm"})
    assert {"name": "digits", "classes": "parity", "augment_probability": 0.5} == job.config["data"]
    job = resolve_job({"teacher": "maskgit", "objective": "idlm", "data": {"augment_probability": 0.0}})
    assert ("parity", 0.0) == (job.config["data"]["classes"], job.config["data"]["augment_probability"])
    assert isinstance(job.objective, Idlm)
    assert resolve_job({"teacher": "maskgit"}).data is None


def test_an_objective_of_no_generator_is_refused(tiny_teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trains teacher, of which 0 are generators.*dimo pretrain"):
        small(tiny_teacher, tmp_path / "run", objective=MaskedModelling())


class Watching(Phase):
    """Remembers its batches; the gradient is that of the sum of all weights."""

    def __init__(self, name: str, module: Any, stream: Stream | None) -> None:
        self.name, self.parts, self.module, self.stream = name, ("student",), module, stream
        self.seen: list[Batch] = []

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        self.seen.append(batch)
        sum(p.sum() for p in self.module.parameters() if p.requires_grad).backward()  # type: ignore[union-attr]
        return {}


class Both(Objective):
    """A part of another name, and phases of two streams in turn."""

    def __init__(self, ingredients: Ingredients, named: bool) -> None:
        assert ingredients.generator is not None
        self.module = ingredients.generator.build(ingredients.teacher)
        one: Stream | None = "data" if named else None
        self.every = [
            Watching("a", self.module, "conditions"),
            Watching("b", self.module, one),
            Watching("c", self.module, one),
        ]

    def parts(self) -> Mapping[str, Part]:
        return {"student": Part(module=self.module, optimisation=Optimisation(ema=0.9))}

    def phases(self) -> Sequence[Phase]:
        return self.every


@attrs.frozen(kw_only=True)
class Mixed(ObjectiveOptions):
    """Needs two streams.

    Attributes:
        named: Whether its phases say which is theirs.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"conditions", "data"})
    named: bool = True

    def build(self, ingredients: Ingredients) -> Both:
        return Both(ingredients, self.named)


def test_each_stream_is_read_from_its_own_beginning_without_gaps(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, build = list[Both](), Mixed.build
    monkeypatch.setattr(Mixed, "build", lambda self, i: made.append(build(self, i)) or made[-1])
    train = {**QUICK, "steps": 5, "batch_size": 2}
    job = resolve_job(
        {
            "teacher": tiny_teacher,
            "objective": Mixed(),
            "data": Codes(),
            "out": str(tmp_path / "run"),
            "train": train,
        }
    )
    result = run(job)
    assert (tmp_path / "run" / "generator" / "generator.yaml").exists()
    assert result.generator is made[0].module
    a, b, c = (phase.seen for phase in made[0].every)
    assert all(batch.tokens is None for batch in a)
    rows = torch.cat([x.tokens for pair in zip(b, c, strict=True) for x in pair if x.tokens is not None])
    first, second = rows[:10], rows[10:]  # two epochs of ten, each in an order of its own
    every = Codes().load("all").tokens
    assert every is not None
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == sorted(every.tolist())
    stream = job.conditions.open(tiny_teacher.conditioning, seed=job.seed)
    assert stream.read(0, 10) == torch.cat([batch.conditions for batch in a]).tolist()


def test_a_phase_of_two_streams_says_which_is_its_own(tiny_teacher: Any, tmp_path: Path) -> None:
    text = "phase 'b' reads from None, and its objective needs 'conditions' and 'data': set Phase.stream"
    with pytest.raises(PluginError, match=text):
        small(tiny_teacher, tmp_path / "run", objective=Mixed(named=False))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "got none"),
        ({"images": torch.zeros(1, 1, 1, 1, dtype=torch.uint8), "lines": ("a",)}, "got images and lines"),
        ({"lines": ("a", "b"), "labels": torch.zeros(1, dtype=torch.long)}, "1 labels for 2 lines"),
        ({"lines": ("a", "b"), "texts": ("a",)}, "1 texts for 2 lines"),
        ({"lines": ("a", "b"), "given": (1, 2, 3)}, "3 given for 2 lines"),
    ],
)
def test_examples_belong_together(given: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Examples(**given)


def test_examples_of_any_kind_have_conditions_of_any_kind() -> None:
    lines = Examples(lines=("a", "b", "c"), given=({"x": 1}, {"x": 2}, {"x": 3}))
    assert [{"x": 2}, {"x": 3}] == lines.part(slice(1, 3)).conditions()
    assert ("c", "a") == lines.part(torch.tensor([2, 0])).lines
    with pytest.raises(UsageError, match="have no conditions"):
        Examples(lines=("a",)).conditions()
    with pytest.raises(UsageError, match="these examples are texts, and images are wanted"):
        _ = lines.pictures
