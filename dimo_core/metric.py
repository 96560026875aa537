"""``FeatureExtractor`` and ``Metric``: what is measured of samples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import attrs
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens

T = TypeVar("T")

TENSORS = ("tokens", "counted", "calls", "images", "features", "logits")
"""Fields of ``Samples`` with a row for each."""


@attrs.frozen(kw_only=True, eq=False)
class Samples:
    """What is judged: samples of a model, or a real part of the data.

    Attributes:
        conditions: The raw condition of each sample.
        tokens: Sampled tokens; None for real images.
        counted: Which of the tokens count, ``bool [N, L]``: what is given and what is behind the end do not;
            None where all do.
        calls: ``[N]``, the forward passes that each sample took; None for real data.
        images: ``uint8 [N, C, H, W]``; None where tokens are no images.
        features: ``[N, F]`` of the chosen extractor; None when there is none.
        logits: ``[N, K]`` class logits of the extractor; None when it has none.
        observed: What metrics remember of each sample, by ``Metric.observes``: ``[N, ...]``.
    """

    conditions: tuple[Any, ...]
    tokens: Tokens | None = None
    counted: Bool[Tensor, "N L"] | None = None
    calls: Int[Tensor, " N"] | None = None
    images: UInt8[Tensor, "N C H W"] | None = None
    features: Float[Tensor, "N F"] | None = None
    logits: Float[Tensor, "N K"] | None = None
    observed: Mapping[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.conditions)

    def take(self, rows: Sequence[int]) -> "Samples":
        """Some of the samples, by number."""
        number = torch.tensor(rows)
        chosen = {name: part[number] for name, part in self._tensors().items()}
        observed = {name: part[number] for name, part in self.observed.items()}
        conditions = tuple(self.conditions[i] for i in rows)
        return attrs.evolve(self, conditions=conditions, observed=observed, **chosen)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {name: getattr(self, name) for name in TENSORS}
        return {name: part for name, part in parts.items() if part is not None}


def joined_samples(batches: Sequence[Samples]) -> Samples:
    """Batches in their order as one; what any of them lacks, or did not observe, is left out."""
    shared = [name for name in batches[0]._tensors() if all(name in batch._tensors() for batch in batches)]
    parts = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in shared}
    seen = [name for name in batches[0].observed if all(name in batch.observed for batch in batches)]
    observed = {name: torch.cat([batch.observed[name] for batch in batches]) for name in seen}
    conditions = tuple(c for batch in batches for c in batch.conditions)
    return Samples(conditions=conditions, observed=observed, **parts)


class FeatureExtractor(ABC):
    """Images to features and class logits; a frozen attrs class of its options."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of weights and preprocessing: numbers of different fingerprints do not compare."""

    @abstractmethod
    def extract(
        self, images: UInt8[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"] | None]:
        """Features and, where there is a classifier, its logits.

        Raises:
            UsageError: for images that it cannot look at; these stay without features.
            DimoError: when it cannot look at any, such as without weights; it is not asked again.
        """


class Metric(ABC):
    """Numbers from samples, against a reference where needed; a frozen attrs class of its options.

    Attributes:
        better: Which direction is good, by name of the number; tables mark the best value of these.
        needs: Which fields of ``Samples`` ``compute`` reads: ``conditions``, ``tokens`` (and which count, and
            calls), ``images``, ``features`` (and logits). Images that no metric needs are not kept, so that
            their number is not limited by memory; samples of unknown conditions are judged by metrics that
            need none.
        observes: What ``observe`` gives, no more and no less: names that no other metric uses.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset({"conditions", "tokens", "images", "features"})

    observes: ClassVar[frozenset[str]] = frozenset()

    @property
    def fingerprint(self) -> str | None:
        """A hash of the files that options name; None for none. Numbers of different ones do not compare.

        Raises:
            CheckpointError: when they are missing.
        """
        return None

    def observe(self, samples: Samples, teacher: Teacher) -> Mapping[str, Tensor]:
        """What ``compute`` later finds in ``Samples.observed`` in place of images: a row for each sample.

        Called for each batch as it is drawn, with its images; a row may depend on its sample alone.
        Samples without conditions are not observed by a metric that needs them.

        Args:
            samples: A batch with images.
            teacher: As in ``compute``.

        Raises:
            UsageError: for samples that it cannot look at; the metric is then missing.
            DimoError: when it cannot look at any; it is not asked again.
        """
        return {}

    @abstractmethod
    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """The numbers by name, such as ``{"fid": 12.3}``.

        Args:
            samples: What is judged.
            reference: Real samples, when the evaluation plan names some.
            teacher: For metrics that need its token space or classes.

        Raises:
            MissingLibraryError: when a library cannot be loaded; the run goes on without this metric.
        """


def placed(plugin: T, device: torch.device | None) -> T:
    """An extractor or metric of a run on a device: its option ``device``, if ``auto``, becomes this."""
    if device is None or not attrs.has(type(plugin)) or getattr(plugin, "device", None) != "auto":
        return plugin
    return attrs.evolve(plugin, device=str(device))  # type: ignore[misc]
