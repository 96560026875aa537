"""Each kind of plugin has a check: shipped ones pass it, and it names what is broken in others."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import pytest
import torch
from torch import nn

import dimo_core.testing
from dimo_core.command import Command
from dimo_core.examples import Examples
from dimo_core.guidance import Constant
from dimo_core.hookspecs import KINDS
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.metric import FeatureExtractor, Metric, Samples
from dimo_core.objective import Ingredients
from dimo_core.registry import Registry
from dimo_core.sources import Data
from dimo_core.testing import (
    TinyTeacher,
    check_auxiliary,
    check_command,
    check_data,
    check_features,
    check_generator,
    check_guidance,
    check_metric,
    check_objective,
    check_teacher,
    check_tracker,
)
from dimo_core.tracker import Tracker
from dimo_divergences import Jeffrey

Broken = Callable[..., Any]
REGISTRY = Registry.discover({})
IMAGES = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shipped(kind: str, name: str, **options: Any) -> Any:
    return REGISTRY.load(kind, name)(**options)


def ingredients(teacher: Any, generator: Any = None) -> Ingredients:
    return Ingredients(
        teacher=teacher,
        generator=generator or OneStep(),
        auxiliary=Denoiser(),
        divergence=Jeffrey(),
        guidance=Constant(scale=2.0),
    )


def found(text: str) -> Any:
    return pytest.raises(AssertionError, match=re.escape(text))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_check(kind: str) -> None:
    assert f"check_{kind}" in dimo_core.testing.__all__


@pytest.mark.parametrize("kind", ["label", "text", "none"])
def test_the_tiny_teacher_passes(kind: Any) -> None:
    check_teacher(TinyTeacher(kind=kind), [0, 1, 2] if kind == "label" else ["a", "", "bc"])


@pytest.mark.parametrize("name", ["one_step", "few_step", "imdm"])
def test_whole_generators_pass(whole: Any, name: str) -> None:
    check_generator(shipped("generator", name), whole, [0, 1, 1])


def test_a_generator_of_a_network_that_takes_further_tokens_passes() -> None:
    check_generator(shipped("generator", "mixture"), shipped("teacher", "gym", extra=True), [0, 0])


def test_the_shipped_auxiliary_passes(whole: Any) -> None:
    check_auxiliary(Denoiser(label_smoothing=0.1, soft=0.5), whole, [0, 1])


@pytest.mark.parametrize("name", ["constant", "ramp", "adaptive"])
def test_whole_guidance_passes(name: str) -> None:
    check_guidance(shipped("guidance", name, scale=2.0))


@pytest.mark.parametrize(
    "name", ["dimo", "dimo-data", "idlm", "masked-modelling", "sdtt", "pairs", "certainty"]
)
def test_whole_objectives_pass(whole: Any, name: str) -> None:
    check_objective(shipped("objective", name), ingredients(whole), [0, 1, 1, 0])


def test_whole_trackers_data_and_extractors_pass(tmp_path: Path) -> None:
    check_tracker(shipped("tracker", "none"), tmp_path)
    check_tracker(shipped("tracker", "csv"), tmp_path)
    check_data(shipped("data", "gym"))
    check_features(shipped("features", "digits-reader"), IMAGES)


class Built:
    """Options whose ``build`` gives a generator with some methods replaced."""

    def __init__(self, **methods: Any) -> None:
        self.methods = methods

    def build(self, options: Any, teacher: Any, *, skeleton: bool = False) -> Any:
        made = OneStep.build(options, teacher, skeleton=skeleton)
        made.__class__ = type("Generator", (OneStepGenerator,), self.methods)
        return made


def twice(self: Any, c: Any, draws: Any) -> Any:
    OneStepGenerator.sample(self, c, draws)
    return OneStepGenerator.sample(self, c, draws)


def at_random(self: Any, c: Any, draws: Any) -> Any:
    OneStepGenerator.sample(self, c, draws)
    return torch.randint(5, (len(c), 4))


def masked(self: Any, c: Any, draws: Any) -> Any:
    return OneStepGenerator.sample(self, c, draws).clamp(5, 5)


def quiet(self: Any, c: Any, draws: Any) -> Any:
    with torch.no_grad():
        return OneStepGenerator.rollout(self, c, draws)


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"sample": twice}, "passes is 2, what a sample took, not 1"),
        ({"sample": at_random}, "the same draws give the same samples"),
        ({"sample": masked}, "samples are codes 0 .. 4; [5] is none"),
        ({"rollout": quiet}, "hidden states of a rollout have a graph"),
        ({"sampling": lambda self: {"nothing": 1}}, "sampling() holds options by name"),
    ],
)
def test_a_generator_that_breaks_the_contract_is_named(
    whole: Any, broken: Broken, methods: dict[str, Any], text: str
) -> None:
    made = Built(**methods)
    options = broken(OneStep(), build=lambda self, teacher, **how: made.build(self, teacher, **how))
    with found(text):
        check_generator(options, whole, [0, 1, 1])


def test_an_auxiliary_that_divides_its_loss_is_named(whole: Any, broken: Broken) -> None:
    def build(self: Any, teacher: Any, *, skeleton: bool = False) -> Any:
        made = Denoiser.build(self, teacher, skeleton=skeleton)
        made.loss = nn.functional.cross_entropy
        return made

    with found("loss is a sum over rows, and divides by nothing"):
        check_auxiliary(broken(Denoiser(), build=build), whole, [0, 1])


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (lambda self, ratio, progress=None: 2.0 * ratio.mean(), "one scale a sample, has shape [4], not []"),
        (
            lambda self, ratio, progress=None: ratio.double(),
            "keeps the dtype of the ratios, fp32",
        ),
        (lambda self, ratio, progress=None: 1 / ratio, "gives finite scales"),
        (lambda self, ratio, progress=None: ratio / ratio.max(), "treats samples one by one"),
    ],
)
def test_guidance_that_breaks_the_contract_is_named(broken: Broken, at: Any, text: str) -> None:
    with found(text):
        check_guidance(broken(Constant(), at=at))


def divided_by_the_micro_batch(phase: Any) -> Any:
    plain = phase.accumulate

    def accumulate(batch: Any, draws: Any, *, watch: bool = False) -> Any:
        own = attrs.evolve(draws, total=draws.count, start=0)
        return plain(batch, own, watch=watch)

    phase.accumulate = accumulate
    return phase


def with_a_loss_that_is_infinite(phase: Any) -> Any:
    plain = phase.accumulate
    phase.accumulate = lambda *a, **k: {**plain(*a, **k), "loss": torch.tensor(torch.inf)}
    return phase


def of_another_part(phase: Any) -> Any:
    phase.parts = ("teacher",)
    return phase


def silent(phase: Any) -> Any:
    phase.accumulate = lambda *a, **k: {}
    return phase


@pytest.mark.parametrize(
    ("worse", "text"),
    [
        (divided_by_the_micro_batch, "divide by draws.total or by counts of draws.whole()"),
        (with_a_loss_that_is_infinite, "losses of 'dimo' are finite"),
        (of_another_part, "trains parts of Dimo; ['teacher'] is none"),
        (silent, "gives gradients to its parts ['auxiliary', 'generator'], not to []"),
    ],
)
def test_an_objective_that_breaks_the_contract_is_named(
    whole: Any, broken: Broken, worse: Any, text: str
) -> None:
    def build(self: Any, ingredients: Any) -> Any:
        made = Dimo.build(self, ingredients)
        phases = [worse(phase) for phase in made.phases()]
        made.phases = lambda: phases
        return made

    with found(text):
        check_objective(broken(Dimo(), build=build), ingredients(whole), [0, 1, 1, 0])


@attrs.frozen(kw_only=True)
class Share(Metric):
    """Share of tokens that are 0."""

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"zeros": "larger"}
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Samples | None, teacher: Any) -> Mapping[str, float]:
        assert samples.tokens is not None
        return {"zeros": (samples.tokens == 0).float().mean().item()}


SAMPLES = Samples(conditions=(0, 1, 0), tokens=torch.arange(12).view(3, 4) % 5, images=IMAGES)


def test_a_whole_metric_passes(whole: Any) -> None:
    check_metric(Share(), SAMPLES, whole)


def by_condition(self: Any, samples: Samples, *_: Any) -> Any:
    return {"zeros": float(sum(samples.conditions))}


def unlike(self: Any, samples: Samples, *_: Any) -> Any:
    return {"zeros": torch.rand(()).item()}


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"compute": by_condition}, "needs of Share names all that compute reads: tokens, not TypeError"),
        ({"compute": unlike}, "gives the same numbers at every call"),
        ({"compute": lambda *_: {"zeros": torch.ones(())}}, "Python floats by name; 'zeros' is Tensor"),
        ({"compute": lambda *_: {"ones": 1.0}}, "['zeros'] is none of them"),
        ({"needs": frozenset({"pictures"})}, "needs of Share are among conditions, tokens, images, features"),
        ({"observes": frozenset({"seen"})}, "gives what observes names: ['seen'], not []"),
        (
            {
                "observes": frozenset({"seen"}),
                "observe": lambda self, samples, teacher: {
                    "seen": samples.images.float().mean((1, 2, 3)) / len(samples)
                },
            },
            "a row of 'seen' depends on its sample alone",
        ),
    ],
)
def test_a_metric_that_breaks_the_contract_is_named(
    whole: Any, broken: Broken, methods: dict[str, Any], text: str
) -> None:
    with found(text):
        check_metric(broken(Share(), **methods), SAMPLES, whole)


@attrs.frozen(kw_only=True)
class Brightness(FeatureExtractor):
    """Mean brightness, and nothing else."""

    fingerprint = "v1"

    def extract(self, images: Any) -> Any:
        return images.float().flatten(1).mean(1, keepdim=True), None


@pytest.mark.parametrize(
    ("extract", "text"),
    [
        (lambda self, x: (x.float().mean((1, 2, 3)) - x.float().mean(), None), "has shape [3, 3], not [3]"),
        (lambda self, x: (x.flatten(1).float() / x.max(), None), "are those of each image by itself"),
        (lambda self, x: (x.flatten(1).float() / 0, None), "are finite"),
    ],
)
def test_an_extractor_that_breaks_the_contract_is_named(broken: Broken, extract: Any, text: str) -> None:
    check_features(Brightness(), IMAGES)
    with found(text):
        check_features(broken(Brightness(), extract=extract), IMAGES)


@attrs.frozen(kw_only=True)
class Lines(Data):
    """Two lines."""

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def load(self, split: str) -> Examples:
        from dimo_core.errors import UsageError

        if split != "train":
            raise UsageError("no such split")
        return Examples(lines=("a", "b"), labels=torch.zeros(2, dtype=torch.long), classes=("text",))


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"splits": lambda self: ()}, "names a part at least"),
        ({"load": lambda self, split: Lines.load(self, "train")}, "refuses an unknown split"),
        ({"load": lambda self, split: {"train": 1}[split]}, "refuses an unknown split"),
        ({"identity": lambda self: {"when": object()}}, "check_data meets no error, not PluginError"),
    ],
)
def test_data_that_break_the_contract_are_named(broken: Broken, methods: dict[str, Any], text: str) -> None:
    check_data(Lines())
    with found(text):
        check_data(broken(Lines(), **methods))


@attrs.frozen(kw_only=True)
class Silent(Tracker):
    """Hears nothing."""

    def start(self, folder: str, config: Any) -> None: ...

    def scalars(self, step: int, values: Any) -> None: ...

    def picture(self, step: int, name: str, path: str) -> None: ...

    def finish(self) -> None: ...


def test_a_tracker_that_does_not_like_nan_is_named(broken: Broken, tmp_path: Path) -> None:
    check_tracker(Silent(), tmp_path)
    with found("takes a run, new or resumed: start, scalars, picture, finish, not ValueError"):
        check_tracker(
            broken(Silent(), scalars=lambda self, step, values: [int(x) for x in values.values()]), tmp_path
        )


@attrs.frozen(kw_only=True)
class Greet(Command):
    """Says hello."""

    def run(self) -> str:
        return "hello"


def test_a_command_that_returns_no_text_is_named(broken: Broken) -> None:
    check_command(Greet())
    with found("run returns text, not NoneType"):
        check_command(broken(Greet(), run=lambda self: None))
