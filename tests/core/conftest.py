"""A toy world: two classes, four sites, five codes, and plugins that compute nothing expensive."""

from types import MappingProxyType, SimpleNamespace

import attrs
import pytest
import torch
from torch import nn

from dimo_core.backbone import Backbone
from dimo_core.choice import Choice
from dimo_core.conditions import Conditioning
from dimo_core.errors import MissingLibraryError, UnknownNameError, UsageError
from dimo_core.generator import Generator
from dimo_core.guidance import Constant
from dimo_core.metric import FeatureExtractor, Metric
from dimo_core.registry import Registry
from dimo_core.sampler import Sampled, Sampler
from dimo_core.sources import Conditions, Data, Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace

LENGTH, CODES = 4, 5


class ToyBackbone(Backbone):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CODES))
        self.dropout = nn.Dropout(0.5)

    def embed(self, x):
        return x

    def forward(self, x, c, *, mask_ratio):
        return x

    def head(self, hidden, rows=None):
        return self.weight.expand(*hidden.shape, CODES)


class ToyTeacher(Teacher):
    capabilities = frozenset({"decode"})
    tokens = TokenSpace(length=LENGTH, codes=CODES, mask_id=CODES, grid=(2, 2), modality="image")
    conditioning = Conditioning(kind="label", classes=("even", "odd"))

    def network(self, *, share=False):
        return ToyBackbone().eval()

    def skeleton(self):
        return ToyBackbone()

    def encode_conditions(self, raw):
        return {"label": torch.tensor(list(raw), dtype=torch.long)}

    def decode(self, x, c):
        return (x.float() / CODES).view(-1, 1, 2, 2)

    def recipes(self):
        return {}

    def evaluation(self):
        return None


class ToyTokensTeacher(ToyTeacher):
    capabilities = frozenset()
    tokens = TokenSpace(length=LENGTH, codes=CODES, mask_id=CODES)


@attrs.frozen(kw_only=True)
class ToyOptions:
    temperature: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))


class ToyGenerator(Generator):
    """Draws a code for each site, shifted by the class; the dropout shows whether it is in eval mode."""

    def __init__(self):
        super().__init__()
        self.space, self.backbone = ToyTeacher.tokens, ToyBackbone()
        self.options = ToyOptions()
        self.batches = []

    def initial_tokens(self, draws):
        raise AssertionError("not used")

    def forward(self, x_init, c, draws):
        raise AssertionError("not used")

    def rollout(self, c, draws):
        raise AssertionError("not used")

    def sample(self, c, draws):
        assert not self.backbone.dropout.training
        assert not torch.is_grad_enabled()
        self.batches.append(draws.count)
        return (draws.integers("code", CODES, LENGTH) + c["label"][:, None]) % CODES

    def sampling(self):
        return {"temperature": self.options.temperature}


@attrs.frozen(kw_only=True)
class ToySampler(Sampler):
    greed: float = 0.5

    def sample(self, teacher, network, c, *, steps, guidance, draws, keep_trajectory=False):
        assert not network.training
        tokens = draws.integers("code", min(steps, CODES), LENGTH)
        return Sampled(tokens=tokens, passes=2 * steps)


@attrs.frozen(kw_only=True)
class ToyConditions(Conditions):
    def open(self, conditioning, *, seed):
        raise AssertionError("not used")

    def balanced(self, conditioning, count):
        return [i % len(conditioning.classes) for i in range(count)]


@attrs.frozen(kw_only=True)
class ToyData(Data):
    def splits(self):
        return ("held-out", "other")

    def load(self, split):
        size = {"held-out": 40, "other": 30}[split]
        images = (torch.arange(size * 4) * 37 % 256).to(torch.uint8).view(size, 1, 2, 2)
        return Examples(images=images, labels=torch.arange(size) % 2, classes=("even", "odd"))


@attrs.frozen(kw_only=True)
class ToyFeatures(FeatureExtractor):
    fingerprint = "abc123"

    def extract(self, images):
        return images.flatten(1).double(), None


@attrs.frozen(kw_only=True)
class Brightness(Metric):
    """The distance of mean brightness."""

    better = MappingProxyType({"brightness": "smaller"})

    def compute(self, samples, reference, teacher):
        if samples.features is None or reference.features is None:
            raise UsageError("brightness needs features")
        return {"brightness": abs(samples.features.mean() - reference.features.mean()).item()}


@attrs.frozen(kw_only=True)
class Variety(Metric):
    """The share of distinct token rows."""

    better = MappingProxyType({"variety": "larger"})

    def compute(self, samples, reference, teacher):
        if samples.tokens is None:
            return {}
        return {"variety": len(samples.tokens.unique(dim=0)) / len(samples)}


@attrs.frozen(kw_only=True)
class Broken(Metric):
    def compute(self, samples, reference, teacher):
        raise MissingLibraryError("foo does not load. Install it: pip install foo")


PLUGINS = {
    "data": {"toy": ToyData},
    "features": {"toy": ToyFeatures},
    "sampler": {"toy": ToySampler},
    "guidance": {"constant": Constant},
    "conditions": {"labels": ToyConditions},
    "metric": {"brightness": Brightness, "variety": Variety, "broken": Broken},
}


class ToyRegistry(Registry):
    def load(self, kind, name):
        if name not in PLUGINS[kind]:
            raise UnknownNameError(kind, name, PLUGINS[kind])
        return PLUGINS[kind][name]


PLAN = EvaluationPlan(
    metrics=(Choice("broken"), Choice("variety"), Choice("brightness")),
    best="brightness",
    data=Choice("toy"),
    split="held-out",
    floor_split="other",
    features=Choice("toy"),
    samples=30,
    steps=(4, 1),
    sampler=Choice("toy", {"greed": 0.25}),
    shown=("brightness",),
)


@pytest.fixture
def toy():
    return SimpleNamespace(
        Teacher=ToyTeacher,
        TokensTeacher=ToyTokensTeacher,
        Backbone=ToyBackbone,
        Generator=ToyGenerator,
        Sampler=ToySampler,
        Conditions=ToyConditions,
        Registry=ToyRegistry,
        plan=PLAN,
    )
