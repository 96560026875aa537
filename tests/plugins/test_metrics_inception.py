"""The Inception features: weights are found, read safely, and give torch-fidelity's own features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from loguru import logger
from PIL import Image
from safetensors.torch import save_file

from dimo_core.choice import Choice
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.evaluation.judge import Judge
from dimo_core.metric import Samples
from dimo_core.registry import Registry
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.testing import check_options
from dimo_metrics.fidelity import Fidelity
from dimo_metrics.inception import FILES, Inception


class NoTeacher(Teacher):
    """These metrics ask nothing of the teacher."""


NoTeacher.__abstractmethods__ = frozenset()


class Trap:
    """Its pickle would run a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('executed')",)


@pytest.fixture
def published(random_inception: Path) -> Path:
    return random_inception


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 20, 31), dtype=torch.uint8, generator=generator)


def test_options_are_those_of_a_plugin() -> None:
    check_options(Inception())


def test_features_and_logits_are_those_of_torch_fidelity(published: Path, pictures: torch.Tensor) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "n", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(published)
    )
    expected = network(pictures)
    found = Inception(weights=str(published), batch_size=2, device="cpu").extract(pictures)
    assert [(3, 2048), (3, 1008)] == [tuple(part.shape) for part in found]
    assert all(torch.allclose(e, f, rtol=1e-4, atol=1e-6) for e, f in zip(expected, found, strict=True))
    assert found[0].std() > 0


def test_weights_lie_in_torchs_cache_under_either_name(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Inception(weights=str(published)).fingerprint
    for name in FILES:
        home = tmp_path / name
        (home / "hub" / "checkpoints").mkdir(parents=True)
        (home / "hub" / "checkpoints" / name).symlink_to(published)
        monkeypatch.setenv("TORCH_HOME", str(home))
        assert given == Inception().fingerprint


def test_without_weights_nothing_is_downloaded_and_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: torch.Tensor
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    with pytest.raises(CheckpointError) as caught:
        Inception().extract(pictures)
    text = str(caught.value)
    told = (*FILES, str(tmp_path / "hub" / "checkpoints"), "option 'weights'", "https://github.com/toshas/")
    assert [] == [part for part in told if part not in text]
    with pytest.raises(CheckpointError, match="no weights"):
        _ = Inception().fingerprint


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*gone\.pth"):
        _ = Inception(weights=str(tmp_path / "gone.pth")).fingerprint


def test_the_fingerprint_tells_weights_apart_and_not_where_they_are_or_run(
    published: Path, tmp_path: Path
) -> None:
    with fsspec.open("memory://inception/weights.pth", "wb") as file:
        file.write(published.read_bytes())
    same = Inception(weights="memory://inception/weights.pth", device="cpu", batch_size=1).fingerprint
    assert Inception(weights=str(published)).fingerprint == same
    other = tmp_path / "other.pth"
    other.write_bytes(published.read_bytes() + b" ")
    assert Inception(weights=str(other)).fingerprint != same


def test_other_weights_than_the_published_ones_are_warned_about(published: Path) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        _ = Inception(weights=str(published)).fingerprint
    finally:
        logger.remove(sink)
    assert ["6726825d" in line for line in lines] == [True]


def test_safetensors_will_do(published: Path, tmp_path: Path, pictures: torch.Tensor) -> None:
    save_file(torch.load(published, weights_only=True), tmp_path / "weights.safetensors")
    expected, _ = Inception(weights=str(published), device="cpu").extract(pictures[:1])
    found, _ = Inception(weights=str(tmp_path / "weights.safetensors"), device="cpu").extract(pictures[:1])
    assert torch.equal(expected, found)


def test_gray_images_are_read_as_colour(published: Path, pictures: torch.Tensor) -> None:
    inception = Inception(weights=str(published), device="cpu")
    expected, _ = inception.extract(pictures[:1, :1].repeat(1, 3, 1, 1))
    found, _ = inception.extract(pictures[:1, :1])
    assert torch.equal(expected, found)


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 or 3 channels, got \[1, 4, 8, 8\]"):
        Inception().extract(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_a_pickled_program_is_not_run(tmp_path: Path, pictures: torch.Tensor) -> None:
    torch.save({"fc.weight": torch.zeros(2), "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match=r"trap\.pth"):
        Inception(weights=str(tmp_path / "trap.pth")).extract(pictures)


def test_weights_of_another_network_are_refused(tmp_path: Path, pictures: torch.Tensor) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit the Inception network"):
        Inception(weights=str(tmp_path / "other.pth")).extract(pictures)


def write_picture(path: Path, pixels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)


def reference_folder(pictures: torch.Tensor, folder: Path) -> dict[str, Any]:
    for i, picture in enumerate(pictures):
        write_picture(folder / "any" / f"{i:03d}.png", picture)
    return {
        "data": Choice("image-folder", {"path": str(folder), "size": 20, "held_out": 0}),
        "split": "train",
    }


def reference_shards(pictures: torch.Tensor, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "0.tar")) as shard:
        for i, picture in enumerate(pictures):
            write_picture(folder / "one.png", picture)
            shard.write({"__key__": f"{i:03d}", "png": (folder / "one.png").read_bytes(), "cls": b"0"})
    data = Choice("image-shards", {"url": str(folder / "0.tar"), "classes": 1, "size": 20})
    return {"data": data, "split": "train"}


def reference_batch(pictures: torch.Tensor, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    np.savez(folder / "adm.npz", arr_0=pictures.permute(0, 2, 3, 1).numpy())
    return {"data": Choice("reference-batch", {"path": str(folder / "adm.npz")}), "split": "all"}


SLOWER = (reference_folder, reference_shards)


@pytest.mark.parametrize(
    "reference", [*(pytest.param(each, marks=pytest.mark.slow) for each in SLOWER), reference_batch]
)
def test_samples_are_judged_against_images_wherever_they_lie(
    published: Path, tmp_path: Path, reference: Callable[[torch.Tensor, Path], dict[str, Any]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    real, drawn = (
        torch.randint(0, 256, (n, 3, 20, 20), dtype=torch.uint8, generator=generator) for n in (5, 4)
    )
    inception = {"weights": str(published), "device": "cpu"}
    kid = {"numbers": ["kid"], "kid_subsets": 1}
    plan = EvaluationPlan(
        **reference(real, tmp_path / "reference"),
        features=Choice("inception", inception),
        metrics=(Choice("fidelity", kid),),
        best="kid",
    )
    judge = Judge.resolve(NoTeacher(), plan, Registry.discover(), batch_size=3)
    numbers = judge(Samples(conditions=(None,) * 4, images=drawn))
    both = [
        Samples(conditions=(0,) * len(images), features=Inception(**inception).extract(images)[0])
        for images in (drawn, real)
    ]
    assert [] == judge.notes
    expected = Fidelity(**kid).compute(*both, NoTeacher())
    assert expected == pytest.approx(numbers, rel=1e-3)
