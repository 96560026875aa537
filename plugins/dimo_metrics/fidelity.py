"""FID, inception score, KID, precision and recall by torch-fidelity: ``Fidelity``."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import attrs
from attrs import validators as v
from jaxtyping import Float
from loguru import logger
from torch import Tensor

from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_metrics.extractor import PackedFeatures, register_extractor
from dimo_metrics.features import feature_pair, sample_features
from dimo_metrics.library import load_torch_fidelity
from dimo_metrics.statistics import Statistics, frechet_distance, read_statistics

NAMES = {
    "frechet_inception_distance": "fid",
    "inception_score_mean": "is",
    "kernel_inception_distance_mean": "kid",
    "precision": "precision",
    "recall": "recall",
}
"""torch-fidelity's names and ours."""


ENOUGH = 100
"""Samples of a part of which the mean prediction of an inception score is taken, at least."""


def _distinct(numbers: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys([numbers] if isinstance(numbers, str) else numbers))


@attrs.frozen(kw_only=True, slots=False)
class Fidelity(Metric):
    """Metrics of torch-fidelity in the features of the chosen extractor.

    ``fid`` Frechet distance between Gaussians fitted to the features (arXiv 1706.08500); ``is`` exp of the
    mean KL divergence from the mean prediction (arXiv 1606.03498), where the extractor has logits; ``kid``
    unbiased MMD with the cubic kernel (x.y / F + 1)^3 (arXiv 1801.01401): an extractor should give features
    of about unit variance; ``precision`` and ``recall`` by k-nearest-neighbour balls (arXiv 1904.06991).

    Attributes:
        numbers: Which of them are computed; in 2048 dimensions ``kid``, ``precision`` and ``recall`` take
            most of the time.
        statistics: Path or URL of an .npz file with ``mu`` and ``sigma`` of the reference, as ADM, clean-fid
            and pytorch-fid publish them: ``fid`` is then against these. The other numbers still need the
            features of a reference, and are left out without one. Null for the reference itself.
        kid_subsets: Random subsets over which KID is averaged.
        kid_subset_size: Samples in each of them, at most as many as there are on either side.
        isc_splits: Parts over which the inception score is averaged, at most as many as there are samples.
        neighbours: k of precision and recall.
        seed: Seed of the random subsets and parts.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {
        "fid": "smaller",
        "is": "larger",
        "kid": "smaller",
        "precision": "larger",
        "recall": "larger",
    }

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    numbers: tuple[str, ...] = attrs.field(
        default=tuple(NAMES.values()),
        converter=_distinct,
        validator=[v.min_len(1), v.deep_iterable(v.in_(tuple(NAMES.values())))],
    )
    statistics: str | None = None
    kid_subsets: int = attrs.field(default=100, validator=v.gt(0))
    kid_subset_size: int = attrs.field(default=1000, validator=v.gt(1))
    isc_splits: int = attrs.field(default=10, validator=v.gt(0))
    neighbours: int = attrs.field(default=3, validator=v.gt(0))
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """The ``numbers``; ``is`` only where there are logits.

        Raises:
            CheckpointError: when ``statistics`` cannot be read.
            MissingLibraryError: when torch-fidelity cannot be loaded.
            UsageError: without features or what they are compared with, with features of another width, or
                with no more samples than ``neighbours``.
            NumericalError: when features are not finite.
        """
        features, real = self._sides(samples, reference)
        possible = {"is"} if samples.logits is not None else set()
        possible |= {"fid"} if self.statistics is None else set()
        possible |= {"kid", "precision", "recall"} if real is not None else set()
        found = self._by_torch_fidelity(features, samples.logits, real, set(self.numbers) & possible)
        if self.statistics is not None and "fid" in self.numbers:
            found["fid"] = frechet_distance(Statistics.of(features), self._published)
        if self.statistics is not None and real is None:
            logger.info("metric 'fidelity' has statistics and no reference: only fid and is are computed")
        return {name: found[name] for name in NAMES.values() if name in found}

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 of ``statistics``; None without them.

        Raises:
            CheckpointError: when there is no such file.
        """
        return None if self.statistics is None else file_sha256(local_copy(self.statistics))

    @cached_property
    def _told(self) -> list[str]:
        """What was warned of: intervals compute the numbers a hundred times."""
        return []

    @cached_property
    def _published(self) -> Statistics:
        assert self.statistics is not None
        return read_statistics(self.statistics)

    def _sides(
        self, samples: Samples, reference: Samples | None
    ) -> tuple[Float[Tensor, "N F"], Float[Tensor, "M F"] | None]:
        """The features of the samples, and of a reference where there is or must be one."""
        known = reference is not None and reference.features is not None
        if known or (self.statistics is None and set(self.numbers) - {"is"}):
            return feature_pair("fidelity", samples, reference, neighbours=self.neighbours)
        return sample_features("fidelity", samples, neighbours=self.neighbours), None

    def _by_torch_fidelity(
        self,
        features: Float[Tensor, "N F"],
        logits: Float[Tensor, "N K"] | None,
        real: Float[Tensor, "M F"] | None,
        wanted: set[str],
    ) -> dict[str, float]:
        torch_fidelity = load_torch_fidelity()
        if not wanted:
            return {}
        if "is" in wanted and len(features) < ENOUGH * self.isc_splits and not self._told:
            self._told.append(f"the inception score of {len(features)} samples in {self.isc_splits} parts")
            logger.warning("{} comes out too small; give each part {} at least", self._told[0], ENOUGH)
        numbers = torch_fidelity.calculate_metrics(
            input1=PackedFeatures(features, logits),
            input2=None if real is None else PackedFeatures(real, None),
            feature_extractor=register_extractor(torch_fidelity),
            dimo_width=features.shape[1],
            isc="is" in wanted,
            fid="fid" in wanted,
            kid="kid" in wanted,
            prc=bool(wanted & {"precision", "recall"}),
            **self._options(len(features), len(features if real is None else real)),
        )
        return {ours: float(numbers[name]) for name, ours in NAMES.items() if ours in wanted}

    def _options(self, count: int, real: int) -> dict[str, Any]:
        return {
            "isc_splits": min(self.isc_splits, count),
            "kid_subsets": self.kid_subsets,
            "kid_subset_size": min(self.kid_subset_size, count, real),
            "prc_neighborhood": self.neighbours,
            "prc_batch_size": 1000,
            "rng_seed": self.seed,
            "batch_size": 1024,
            "cuda": False,
            "cache": False,  # it knows samples by name alone and would answer with another run's numbers
            "save_cpu_ram": True,  # no worker processes, and distances in blocks
            "verbose": False,
        }
