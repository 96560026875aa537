"""FID from published statistics, and the images of reference batches."""

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from loguru import logger
from scipy import linalg

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.metric import Samples
from dimo_core.teacher import Teacher
from dimo_core.testing import check_options
from dimo_metrics.fidelity import Fidelity
from dimo_metrics.reference_batch import ReferenceBatch
from dimo_metrics.statistics import Statistics, frechet_distance, read_statistics

WIDTH = 6


class NoTeacher(Teacher):
    """These metrics ask nothing of the teacher."""


NoTeacher.__abstractmethods__ = frozenset()


def features(count: int, *, seed: int, width: int = WIDTH, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) / width**0.5
    return torch.randn(count, width, generator=generator) @ mixing + shift


def samples(count: int, *, seed: int, classes: int = 0, shift: float = 0.0) -> Samples:
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) if classes else None
    return Samples(conditions=(0,) * count, features=features(count, seed=seed, shift=shift), logits=logits)


def plain_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2), with scipy's matrix root."""
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    return float(difference @ difference + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real))


def published(path: Path, **more: np.ndarray) -> tuple[Path, np.ndarray]:
    """A file of statistics, and the features that it is of."""
    real = features(500, seed=3, shift=0.4).double().numpy()
    np.savez(path, mu=real.mean(0), sigma=np.cov(real.T), **more)
    return path, real


def test_the_fingerprint_is_of_the_file_and_not_of_its_path(tmp_path: Path) -> None:
    path, _ = published(tmp_path / "stats.npz")
    other = tmp_path / "copy.npz"
    other.write_bytes(path.read_bytes())
    first = Fidelity(statistics=str(path)).fingerprint
    assert first == Fidelity(statistics=str(other)).fingerprint
    published(other, arr_0=np.zeros(3))
    assert first != Fidelity(statistics=str(other)).fingerprint
    assert Fidelity().fingerprint is None
    with pytest.raises(CheckpointError, match="no file"):
        _ = Fidelity(statistics=str(tmp_path / "gone.npz")).fingerprint


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fid_from_statistics_is_that_of_the_formula(tmp_path: Path, dtype: Any) -> None:
    path, real = published(tmp_path / "stats.npz")
    with np.load(path) as arrays:
        np.savez(path, mu=arrays["mu"].astype(dtype), sigma=arrays["sigma"])
    judged = samples(300, seed=0)
    numbers = Fidelity(statistics=str(path)).compute(judged, None, NoTeacher())
    assert judged.features is not None
    expected = plain_frechet(judged.features.double().numpy(), real)
    assert {"fid"} == set(numbers)
    assert expected == pytest.approx(numbers["fid"], rel=1e-9 if dtype is np.float64 else 1e-5)


def test_fid_from_statistics_is_that_from_the_features_they_are_of(tmp_path: Path) -> None:
    path, real = published(tmp_path / "stats.npz")
    reference = Samples(conditions=(0,) * len(real), features=torch.from_numpy(real))
    judged = samples(300, seed=0, classes=4)
    direct = Fidelity(kid_subsets=2).compute(judged, reference, NoTeacher())
    given = Fidelity(kid_subsets=2, statistics=str(path)).compute(judged, reference, NoTeacher())
    assert list(direct) == list(given)
    assert direct == pytest.approx(given, rel=1e-9)


def test_reference_batches_of_adm_are_read_without_their_images_and_spatial_statistics(
    tmp_path: Path,
) -> None:
    spatial = {"mu_s": np.zeros(9), "sigma_s": np.eye(9)}
    path, real = published(tmp_path / "adm.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8), **spatial)
    found = read_statistics(str(path))
    assert np.array_equal(real.mean(0), found.mu)
    assert np.array_equal(np.cov(real.T), found.sigma)


def test_statistics_are_read_from_a_url_through_the_cache(tmp_path: Path) -> None:
    path, real = published(tmp_path / "stats.npz")
    with fsspec.open("memory://published/stats.npz", "wb") as file:
        file.write(path.read_bytes())
    assert np.array_equal(real.mean(0), read_statistics("memory://published/stats.npz").mu)


def test_numbers_that_need_a_reference_are_left_out_with_a_line_in_the_log(tmp_path: Path) -> None:
    path, _ = published(tmp_path / "stats.npz")
    lines: list[str] = []
    sink = logger.add(lines.append, level="INFO", format="{message}")
    try:
        numbers = Fidelity(statistics=str(path)).compute(samples(50, seed=0, classes=4), None, NoTeacher())
    finally:
        logger.remove(sink)
    assert {"fid", "is"} == set(numbers)
    assert any("only fid and is" in line for line in lines)


def test_covariances_without_full_rank_give_a_finite_distance() -> None:
    few, more = features(3, seed=0).double(), features(4, seed=1).double()
    distance = frechet_distance(Statistics.of(few), Statistics.of(more))
    assert plain_frechet(few.numpy(), more.numpy()) == pytest.approx(distance, abs=1e-6)


def test_a_single_feature_has_a_variance() -> None:
    a, b = features(40, seed=0, width=1).double(), features(50, seed=1, width=1, shift=2.0).double()
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert expected.item() == pytest.approx(frechet_distance(Statistics.of(a), Statistics.of(b)))


def test_statistics_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UsageError, match=r"6 and 2048.*'inception'"):
        Fidelity(statistics=str(path)).compute(samples(20, seed=0), None, NoTeacher())


EYE = np.eye(3)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no arrays of the names": ({"mean": np.zeros(3)}, "expected arrays 'mu' and 'sigma', found mean"),
    "one of the two": ({"mu": np.zeros(3)}, "found mu"),
    "images alone": ({"arr_0": np.zeros((1, 8, 8, 3), np.uint8)}, "found arr_0.*'reference-batch'"),
    "pickles": ({"mu": np.array([{}], object), "sigma": EYE}, "Object arrays.*nothing in the file was exec"),
    "another shape": (
        {"mu": np.zeros(3), "sigma": np.zeros((3, 4))},
        r"got float64 \[3\] and float64 \[3, 4",
    ),
    "a matrix as mean": ({"mu": EYE, "sigma": EYE}, r"got float64 \[3, 3\]"),
    "integers": ({"mu": np.zeros(3, int), "sigma": EYE}, r"got int64 \[3\]"),
    "no numbers": ({"mu": np.full(3, np.nan), "sigma": EYE}, "not finite"),
    "not symmetric": ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "no covariance"),
    "negative variances": ({"mu": np.zeros(3), "sigma": -EYE}, "no covariance"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_without_statistics_is_refused_with_what_it_holds(tmp_path: Path, kind: str) -> None:
    arrays, message = WRONG[kind]
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(CheckpointError, match=message):
        read_statistics(str(tmp_path / "stats.npz"))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stats.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no \.npz file of plain arrays"):
        read_statistics(str(tmp_path / "stats.npz"))
    with pytest.raises(CheckpointError, match=r"no \.npz file of plain arrays"):
        ReferenceBatch(path=str(tmp_path / "stats.npz")).load("all")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*nowhere\.npz"):
        Fidelity(statistics=str(tmp_path / "nowhere.npz")).compute(samples(20, seed=0), None, NoTeacher())


def test_only_the_chosen_numbers_are_computed() -> None:
    pair = samples(30, seed=0, classes=4), samples(30, seed=1)
    everything = Fidelity(kid_subsets=2).compute(*pair, NoTeacher())
    for name, value in everything.items():
        assert {name: value} == Fidelity(kid_subsets=2, numbers=name).compute(*pair, NoTeacher())


def test_the_inception_score_alone_needs_no_reference() -> None:
    judged = samples(30, seed=0, classes=4)
    expected = Fidelity(kid_subsets=2).compute(judged, samples(30, seed=1), NoTeacher())["is"]
    assert {"is": expected} == Fidelity(numbers=("is",)).compute(judged, None, NoTeacher())


def test_statistics_are_not_read_for_other_numbers(tmp_path: Path) -> None:
    metric = Fidelity(numbers=("is",), statistics=str(tmp_path / "nowhere.npz"))
    assert {"is"} == set(metric.compute(samples(30, seed=0, classes=4), None, NoTeacher()))


@pytest.mark.parametrize("numbers", [(), ("fdi",)])
def test_numbers_that_nobody_knows_are_refused(numbers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="numbers"):
        Fidelity(numbers=numbers)


def test_a_reference_batch_gives_its_images_with_channels_first(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), np.uint8)
    published(tmp_path / "adm.npz", arr_0=pictures)
    data = ReferenceBatch(path=str(tmp_path / "adm.npz"))
    check_options(data)
    examples = data.load(*data.splits())
    assert torch.equal(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), examples.images)
    assert [0] * 5 == examples.conditions()
    shutil.copy(tmp_path / "adm.npz", tmp_path / "moved.npz")
    assert data.identity() == ReferenceBatch(path=str(tmp_path / "moved.npz")).identity()
    published(tmp_path / "adm.npz", arr_0=pictures[:4])
    assert data.identity() != ReferenceBatch(path=str(tmp_path / "moved.npz")).identity()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"must be uint8 \[N, H, W, 3\], got uint8 \[2, 3, 8, 8\]"),
        (np.zeros((2, 8, 8, 3), np.float32), "got float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), "got uint8"),
        (np.array([{}], object), "Object arrays.*executed"),
    ],
)
def test_a_reference_batch_without_images_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.savez(tmp_path / "adm.npz", arr_0=array)
    with pytest.raises(CheckpointError, match=message):
        ReferenceBatch(path=str(tmp_path / "adm.npz")).load("all")


def test_a_file_of_statistics_alone_is_no_reference_batch(tmp_path: Path) -> None:
    path, _ = published(tmp_path / "stats.npz")
    with pytest.raises(CheckpointError, match="expected an array 'arr_0', found mu, sigma"):
        ReferenceBatch(path=str(path)).load("all")


def test_a_reference_batch_has_one_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown split 'train'.*Known: all"):
        ReferenceBatch(path=str(tmp_path / "adm.npz")).load("train")
