"""The judge: metrics, the reference they compare with, and the features they look at."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import attrs
import torch
from loguru import logger

from dimo_core.errors import DimoError, UsageError, reason
from dimo_core.evaluation.observations import observation
from dimo_core.evaluation.protocols import APART
from dimo_core.evaluation.reference import real_batches
from dimo_core.evaluation.table import Better
from dimo_core.metric import FeatureExtractor, Metric, Samples, joined_samples, placed
from dimo_core.registry import Registry, built
from dimo_core.sources import Data
from dimo_core.suggestions import Measures
from dimo_core.teacher import Teacher


@attrs.define(kw_only=True, eq=False, slots=False)
class Judge:
    """Numbers for samples, by one plan. What cannot be computed is noted, and the rest still is.

    Attributes:
        teacher: Whose samples they are.
        plan: What is computed, against which part of the data.
        metrics: The metrics of the plan that could be built, by registry name.
        features: Extractor for the metrics that need one.
        data: The reference data.
        batch_size: Images of which features are extracted at a time.
        notes: What is missing and how to mend it, each said once.
        width: Features that the extractor gave; 0 before it was asked.
        blind: Metrics that lack what they would observe with; they are not asked again.
    """

    teacher: Teacher
    plan: Measures
    metrics: dict[str, Metric] = attrs.field(factory=dict)
    features: FeatureExtractor | None = None
    data: Data | None = None
    batch_size: int = 500
    notes: list[str] = attrs.field(factory=list)
    width: int = 0
    blind: set[str] = attrs.field(factory=set)

    @classmethod
    def resolve(
        cls,
        teacher: Teacher,
        plan: Measures,
        registry: Registry,
        *,
        batch_size: int,
        device: torch.device | None = None,
    ) -> "Judge":
        """Build what the plan names; a metric that cannot be built is noted and left out.

        Args:
            teacher: Whose samples they are.
            plan: What is computed.
            registry: Loads it.
            batch_size: Images of which features are extracted at a time.
            device: Where the networks of extractor and metrics compute, unless their options say another.

        Raises:
            UsageError: if data or extractor are unknown; a ``PluginError`` where a plugin named them.
        """
        whose = plan.whose(teacher)
        features = built(registry, "features", plan.features, whose) if plan.features else None
        judge = cls(
            teacher=teacher,
            plan=plan,
            features=placed(features, device),
            data=built(registry, "data", plan.data, whose) if plan.data else None,
            batch_size=batch_size,
        )
        for choice in plan.metrics:
            try:
                metric = placed(built(registry, "metric", choice, whose), device)
            except DimoError as error:
                judge.note(f"metric {choice.name!r} is left out: {error}")
                continue
            if judge.metrics.setdefault(choice.name, metric) is not metric:
                judge.note(
                    f"metric {choice.name!r} is named more than once: only the first is computed. {APART}"
                )
        return judge

    @cached_property
    def reference(self) -> Samples | None:
        """The real samples that metrics compare with, features included; read once."""
        return self._real(self.plan.split, self._bare)

    @cached_property
    def floor(self) -> Samples | None:
        """The other real part that is judged like a model's samples; None when the plan has none."""
        return self._real(self.plan.floor_split, self.reduced)

    @property
    def keeps_images(self) -> bool:
        """Whether any metric looks at images themselves."""
        return any("images" in metric.needs for metric in self.metrics.values())

    def reduced(self, batch: Samples) -> Samples:
        """A batch as it need be kept: with features and observations, without images that no metric needs."""
        return self._bare(self._observed(batch))

    def lacks(self, samples: Samples) -> bool:
        """Whether images would add features or observations that these samples do not have."""
        if self.features is not None and samples.features is None:
            return True
        return bool(self._unseen(samples) - self.blind)

    def __call__(self, samples: Samples) -> dict[str, float]:
        """The numbers of all metrics; one that cannot be computed is noted, and the others are given."""
        numbers: dict[str, float] = self.judged(samples)["metrics"]
        return numbers

    def judged(self, samples: Samples) -> dict[str, Any]:
        """Plain data: how many ``samples``, their ``metrics``, and the names of ``missing`` ones.

        Metrics that need conditions are left out where a condition is None, which means unknown.
        """
        samples = self._observed(self._with_features(samples))
        numbers: dict[str, float] = {}
        missing = [choice.name for choice in self.plan.metrics if choice.name not in self.metrics]
        lacking = self._unseen(samples)
        for name, metric in self.metrics.items():
            if None in samples.conditions and "conditions" in metric.needs:
                self.note(f"metric {name!r} is left out: it needs conditions, and these are not known")
                continue
            if name in lacking:
                text = f"metric {name!r} is missing"
                self.note(f"{text}: it looks at images, and these samples have none", unless=text)
                missing.append(name)
                continue
            try:
                found = dict(metric.compute(samples, self.reference, self.teacher))
                found = {key: float(value) for key, value in found.items()}
            except Exception as error:  # a metric costs its own numbers, and no others
                self.note(f"metric {name!r} is missing: {reason(error)}")
                missing.append(name)
                continue
            if twice := ", ".join(sorted(numbers.keys() & found.keys())):
                self.note(f"metric {name!r} gives {twice} as one before it does: the first is kept. {APART}")
                missing.append(name)
            numbers |= {key: value for key, value in found.items() if key not in numbers}
        return {"samples": len(samples), "metrics": numbers, "missing": missing}

    def score(self, numbers: Mapping[str, float]) -> float:
        """The number by which ``best`` is kept, smaller being better; infinite when missing or not finite."""
        name = self.plan.best
        value = numbers.get(name.removeprefix("-"), math.nan)
        return (-value if name.startswith("-") else value) if math.isfinite(value) else math.inf

    @property
    def better(self) -> dict[str, Better]:
        """Which direction is good, by number: what the metrics say, and the plan's ``best``."""
        best = self.plan.best
        better: dict[str, Better] = {best.removeprefix("-"): "larger" if best.startswith("-") else "smaller"}
        for metric in reversed(list(self.metrics.values())):  # of numbers of one name the first is kept
            better |= metric.better
        return better

    def protocol(self) -> dict[str, Any]:
        """What was compared with what, as plain data."""
        plan = self.plan
        return {
            "reference": plan.data
            and {**plan.data.as_dict(), "split": plan.split, "size": len(self.reference or ())},
            "floor": {"split": plan.floor_split, "size": len(self.floor)} if self.floor else None,
            "features": plan.features and plan.features.as_dict(),
            "fingerprint": self.fingerprint,
            "metrics": [choice.as_dict() for choice in plan.metrics],
            **({"files": files} if (files := self.files) else {}),
        }

    @property
    def files(self) -> dict[str, str]:
        """The fingerprints of metrics that read files; without those whose files are missing so far."""
        found = {}
        for name, metric in self.metrics.items():
            with suppress(DimoError):  # said by ``judged``, with the metric that is missing
                if (fingerprint := metric.fingerprint) is not None:
                    found[name] = fingerprint
        return found

    def check(self) -> None:
        """Warn of missing weights and files while there is time to fetch them; nothing is given up yet."""
        for part in (self.features, *self.metrics.values()):
            try:
                _ = None if part is None else part.fingerprint
            except DimoError as error:
                logger.warning("numbers will be missing unless this is mended before they are due: {}", error)

    def require(self) -> None:
        """Make sure that there are features, where numbers are all that is wanted.

        Raises:
            CheckpointError: when the extractor lacks its weights and a metric needs it.
        """
        if self.features is None or not any("features" in metric.needs for metric in self.metrics.values()):
            return
        try:
            _ = self.features.fingerprint
        except DimoError as error:
            raise type(error)(f"{error} Metrics that need no features are chosen with --metrics.") from error

    @property
    def fingerprint(self) -> str | None:
        """That of the extractor; None when there is none, or it lacks its weights."""
        try:
            return None if self.features is None else self.features.fingerprint
        except DimoError as error:
            self._without_features(error)
            return None

    def note(self, text: str, *, unless: str | None = None) -> None:
        """Remember something that a reader of the numbers must know; the first time, log it too.

        Args:
            text: What is to be known.
            unless: Nothing is said where a note begins like this.
        """
        if text not in self.notes and not (unless and any(note.startswith(unless) for note in self.notes)):
            self.notes.append(text)
            logger.warning(text)

    def _real(self, split: str, kept: Callable[[Samples], Samples]) -> Samples | None:
        if self.data is None or not split:
            return None
        batches = real_batches(self.data, split, self.batch_size, self.teacher)
        return joined_samples([kept(batch) for batch in batches])

    def _with_features(self, samples: Samples) -> Samples:
        """The samples with features and logits, where there are images and an extractor."""
        if self.features is None or samples.images is None or samples.features is not None:
            return samples
        try:
            with torch.no_grad():
                batches = torch.split(samples.images, self.batch_size)
                pairs = [self.features.extract(images) for images in batches]
        except Exception as error:
            self._without_features(error)
            return samples
        features = torch.cat([features.cpu() for features, _ in pairs])
        logits = [logits.cpu() for _, logits in pairs if logits is not None]
        self.width = features.shape[1]
        return attrs.evolve(samples, features=features, logits=torch.cat(logits) if logits else None)

    def _bare(self, batch: Samples) -> Samples:
        """A batch of the reference: metrics observe only what is judged."""
        batch = self._with_features(batch)
        return batch if self.keeps_images else attrs.evolve(batch, images=None)

    def _observed(self, samples: Samples) -> Samples:
        """The samples with what metrics remember of their images."""
        if samples.images is None:
            return samples
        seen = dict(samples.observed)
        for name in sorted(self._unseen(samples) - self.blind):
            try:
                seen |= observation(name, self.metrics[name], samples, self.teacher)
            except Exception as error:
                self.note(f"metric {name!r} is missing: {reason(error)}")
                self.blind |= set() if isinstance(error, UsageError) else {name}
        return attrs.evolve(samples, observed=seen)

    def _unseen(self, samples: Samples) -> set[str]:
        """Metrics that have yet to observe these samples, and know enough of them."""
        unknown = None in samples.conditions
        return {
            name
            for name, metric in self.metrics.items()
            if not metric.observes <= samples.observed.keys()
            and not (unknown and "conditions" in metric.needs)
        }

    def _without_features(self, error: Exception) -> None:
        """Go on without features: of these samples, or of all where the extractor cannot be used."""
        if isinstance(error, UsageError):
            text = "some features are missing"
            self.note(f"{text}: {error}", unless=text)  # each batch of them would say its own shape
            return
        self.note(f"no features: {reason(error)}")
        self.features = None
