"""The bridge to torch-fidelity: features that are already extracted, as its dataset and feature extractor.

torch-fidelity reads datasets of ``uint8`` tensors and runs a registered feature extractor over them. In
dimo the judge has run the chosen extractor already, once for all metrics. So the dataset holds the *bytes*
of each sample's features and logits, and the registered extractor reads them back: nothing is computed
twice, nothing is rounded, and ``torch_fidelity.calculate_metrics`` does the rest.
"""

import functools
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

NAME = "dimo-features"
"""The name under which the extractor is registered."""

LAYERS = ("features", "logits")
"""What the extractor provides: features for FID, KID, precision and recall; logits for the score."""


class PackedFeatures(Dataset[Tensor]):
    """Features and logits of samples, each row as its bytes.

    Both are held in float64: torch-fidelity's distances cancel in float32, and its FID wants equal dtypes.
    """

    def __init__(self, features: Float[Tensor, "N F"], logits: Float[Tensor, "N K"] | None) -> None:
        """Pack the rows of ``features`` and, where there are any, ``logits``."""
        parts = [features] if logits is None else [features, logits]
        row = torch.cat([part.detach().cpu().double() for part in parts], dim=1)
        self.rows: UInt8[Tensor, "N bytes"] = row.contiguous().view(torch.uint8)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> UInt8[Tensor, " bytes"]:
        """The bytes of one sample."""
        return self.rows[index]


def register_extractor(torch_fidelity: ModuleType) -> str:
    """Register the extractor that reads ``PackedFeatures``, once; returns its name."""
    if NAME not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor(NAME, _extractor_class(torch_fidelity))
    return NAME


@functools.cache
def _extractor_class(torch_fidelity: ModuleType) -> type:
    class PackedFeaturesExtractor(torch_fidelity.FeatureExtractorBase):  # type: ignore[misc]
        """Bytes back to features and logits; ``dimo_width`` is the number of features."""

        def __init__(self, name: str, features_list: list[str], *, dimo_width: int, **_: Any) -> None:
            super().__init__(name, features_list)
            self.width = dimo_width

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return LAYERS

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, packed: UInt8[Tensor, "B bytes"]) -> tuple[Tensor, ...]:
            row = packed.contiguous().view(torch.float64)
            layers = {"features": row[:, : self.width], "logits": row[:, self.width :]}
            # In the order that was asked for: torch-fidelity pairs the two by position.
            return tuple(layers[name] for name in self.features_list)

    return PackedFeaturesExtractor
