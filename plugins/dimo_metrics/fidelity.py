"""FID, inception score, KID, precision and recall by torch-fidelity: ``Fidelity``."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
from attrs import validators as v

from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_metrics.extractor import PackedFeatures, register_extractor
from dimo_metrics.features import feature_pair
from dimo_metrics.library import load_torch_fidelity

NAMES = {
    "frechet_inception_distance": "fid",
    "inception_score_mean": "is",
    "kernel_inception_distance_mean": "kid",
    "precision": "precision",
    "recall": "recall",
}
"""torch-fidelity's names and ours."""


@attrs.frozen(kw_only=True)
class Fidelity(Metric):
    """Metrics of torch-fidelity in the features of the chosen extractor.

    ``fid`` Frechet distance between Gaussians fitted to the features (arXiv 1706.08500); ``is`` exp of the
    mean KL divergence from the mean prediction (arXiv 1606.03498), where the extractor has logits; ``kid``
    unbiased MMD with the cubic kernel (x.y / F + 1)^3 (arXiv 1801.01401): an extractor should give features
    of about unit variance; ``precision`` and ``recall`` by k-nearest-neighbour balls (arXiv 1904.06991).

    Attributes:
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

    kid_subsets: int = attrs.field(default=100, validator=v.gt(0))
    kid_subset_size: int = attrs.field(default=1000, validator=v.gt(1))
    isc_splits: int = attrs.field(default=10, validator=v.gt(0))
    neighbours: int = attrs.field(default=3, validator=v.gt(0))
    seed: int = 0

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``fid``, ``kid``, ``precision``, ``recall``, and ``is`` where there are logits.

        Raises:
            MissingLibraryError: when torch-fidelity cannot be loaded.
            UsageError: without features or a reference, or with no more samples than ``neighbours``.
            NumericalError: when features are not finite.
        """
        features, real = feature_pair("fidelity", samples, reference, neighbours=self.neighbours)
        torch_fidelity = load_torch_fidelity()
        numbers = torch_fidelity.calculate_metrics(
            input1=PackedFeatures(features, samples.logits),
            input2=PackedFeatures(real, None),
            feature_extractor=register_extractor(torch_fidelity),
            dimo_width=features.shape[1],
            isc=samples.logits is not None,
            fid=True,
            kid=True,
            prc=True,
            **self._options(len(features), len(real)),
        )
        return {ours: float(numbers[theirs]) for theirs, ours in NAMES.items() if theirs in numbers}

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
