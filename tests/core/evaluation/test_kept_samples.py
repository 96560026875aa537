"""Folders of kept samples: of one row, and of one seed or of several."""

import pytest
import torch

from dimo_core.errors import UsageError
from dimo_core.evaluation.kept_samples import claimed
from dimo_core.evaluation.store import Drawn
from dimo_core.files.folder import Folder
from dimo_core.metric import Samples

ONE, SEVERAL = (None,), (0, -1)


@pytest.fixture
def keep(toy, tmp_path):
    """Keeps two samples of row "a" for each seed, as a comparison does."""

    def run(*seeds):
        root, teacher = Folder(str(tmp_path)), toy.Teacher()
        folders = [claimed(root, "a", seed, {"row": "a", "seed": seed or 0}, teacher) for seed in seeds]
        samples = Samples(conditions=(0, 1), images=torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
        for folder in folders:
            folder.keep(Drawn(start=0, samples=samples, passes=1))

    return run


def files(place):
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("seeds", [ONE, SEVERAL])
def test_the_same_samples_are_kept_again(keep, seeds, tmp_path):
    keep(*seeds)
    before = files(tmp_path)
    (tmp_path / "a" / ".DS_Store").touch()
    keep(*seeds)
    assert {**before, "a/.DS_Store": b""} == files(tmp_path)


def test_a_further_seed_goes_beside_the_others(keep, tmp_path):
    keep(0, 1)
    keep(0, 1, 2)
    assert ["seed-0", "seed-1", "seed-2"] == sorted(p.name for p in (tmp_path / "a").iterdir() if p.is_dir())


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (ONE, SEVERAL, r"/a is of samples of one seed \(00000\.png\), and folders of several seeds would"),
        (SEVERAL, ONE, r"/a is of folders of several seeds \(seed--1\), and samples of one seed would"),
    ],
)
def test_samples_of_one_seed_are_not_mixed_with_folders_of_several(keep, first, then, reason, tmp_path):
    keep(*first)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=reason) as refused:
        keep(*then)
    assert "Choose another --keep-samples, or remove the old ones." in str(refused.value)
    assert before == files(tmp_path)
    keep(*first)


def test_a_row_of_one_seed_that_has_no_samples_yet_is_nothing_for_folders_of_seeds(keep, toy, tmp_path):
    claimed(Folder(str(tmp_path)), "a", None, {"row": "a", "seed": 0}, toy.Teacher())
    with pytest.raises(UsageError, match=r"/a is of samples of one seed \(a\.json\)"):
        keep(*SEVERAL)


def test_what_was_mixed_before_is_refused_though_its_record_fits(keep, tmp_path):
    keep(*ONE)
    (tmp_path / "a" / "seed-0").mkdir()
    with pytest.raises(UsageError, match="folders of several seeds"):
        keep(*ONE)
