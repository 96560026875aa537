"""Mean and covariance of the features of a reference, as others publish them: ``Statistics``."""

import zipfile
import zlib

import attrs
import numpy as np
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from dimo_core.errors import CheckpointError, NumericalError, UsageError
from dimo_core.files.cache import local_copy
from dimo_metrics.library import load_torch_fidelity

BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for files that are damaged, of another format, or hold pickles."""

ASYMMETRY = 1e-5
"""How far a covariance may be from symmetric, relative to its largest entry: some are float32."""

Array = Shaped[np.ndarray, "..."]


@attrs.frozen(kw_only=True, eq=False)
class Statistics:
    """The Gaussian that the Frechet distance sees.

    Attributes:
        mu: Mean of the features, float64 [F].
        sigma: Their covariance, float64 [F, F].
    """

    mu: Float64[np.ndarray, " F"]
    sigma: Float64[np.ndarray, "F F"]

    @classmethod
    def of(cls, features: Float[Tensor, "N F"]) -> "Statistics":
        """Those of at least two samples."""
        rows = features.detach().cpu().double().numpy()
        return cls(mu=rows.mean(0), sigma=np.atleast_2d(np.cov(rows, rowvar=False)))


def read_statistics(url: str) -> Statistics:
    """``mu`` and ``sigma`` of an .npz file; what else is in it is not read.

    Files of pytorch-fid and clean-fid hold only these. The reference batches of ADM (guided-diffusion) also
    hold images, ``arr_0``, and statistics of spatial features, ``mu_s`` and ``sigma_s``.

    Args:
        url: Path or fsspec URL.

    Raises:
        CheckpointError: when there is no such file, or it holds no statistics. Pickles are not opened.
    """
    path = local_copy(url)
    try:
        # A handle of our own: numpy would leave its own open when the file turns out to be no archive.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            names = list(arrays.files)
            mu, sigma = (arrays[name] if name in names else None for name in ("mu", "sigma"))
    except BROKEN as error:
        raise CheckpointError(
            f"{url} is no .npz file of plain arrays: {error}. Expected arrays 'mu' [F] and 'sigma' [F, F];"
            " nothing in the file was executed."
        ) from error
    if mu is None or sigma is None:
        advice = " Its images can be the reference: data 'reference-batch'." if "arr_0" in names else ""
        raise CheckpointError(
            f"{url} holds no statistics: expected arrays 'mu' and 'sigma', found"
            f" {', '.join(sorted(names)) or 'none'}.{advice}"
        )
    _check(url, mu, sigma)
    return Statistics(mu=mu.astype(np.float64), sigma=sigma.astype(np.float64))


def _check(url: str, mu: Array, sigma: Array) -> None:
    real = all(np.issubdtype(array.dtype, np.floating) for array in (mu, sigma))
    if not real or mu.ndim != 1 or not mu.size or sigma.shape != (len(mu), len(mu)):
        raise CheckpointError(
            f"{url} holds no mean and covariance: expected floating 'mu' [F] and 'sigma' [F, F], got"
            f" {mu.dtype} {list(mu.shape)} and {sigma.dtype} {list(sigma.shape)}."
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise CheckpointError(f"{url}: 'mu' or 'sigma' is not finite. Use another copy of the file.")
    if np.abs(sigma - sigma.T).max() > ASYMMETRY * np.abs(sigma).max() or (sigma.diagonal() < 0).any():
        raise CheckpointError(
            f"{url}: 'sigma' is no covariance: it is not symmetric, or has negative variances."
        )


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """``|mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2))``, by torch-fidelity (FID).

    It takes the trace of the root from the eigenvalues of the product, so that covariances without full
    rank do no harm.

    Raises:
        MissingLibraryError: when torch-fidelity cannot be loaded.
        UsageError: for features of two widths.
        NumericalError: when the result is not finite.
    """
    if len(a.mu) != len(b.mu):
        raise UsageError(
            f"the Frechet distance compares features of one width, got {len(a.mu)} and {len(b.mu)}. Use"
            " the extractor of the statistics: published ones have the 2048 features of 'inception'."
        )
    load_torch_fidelity()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    # It asserts equal types without a word: both sides are float64 here.
    pair = [{"mu": each.mu, "sigma": each.sigma} for each in (a, b)]
    distance = float(fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID])
    if not np.isfinite(distance):
        raise NumericalError("the Frechet distance is not finite")
    return distance
