"""Generators from their folders: the temperature that they are loaded with."""

import pytest
import yaml

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, load_generator, read_card, save_generator
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.registry import Registry


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = Folder(str(tmp_path_factory.mktemp("run") / "generator"))
    teacher = Registry.discover({}).load("teacher", "maskgit")()
    options = {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1, "temperature": 0.9}
    config = {"teacher": {"name": "maskgit"}, "generator": options}
    save_generator(folder, OneStep(temperature=0.9).build(teacher), teacher, config, {"step": 0})
    return folder.url


@pytest.mark.parametrize(("given", "expected"), [(None, 0.9), (0.5, 0.5)])
def test_a_temperature_takes_the_place_of_the_saved_one(saved, given, expected):
    _, generator = load_generator(saved, temperature=given)
    assert expected == generator.sampling()["temperature"]


def test_a_generator_without_temperature_says_so(saved, monkeypatch):
    monkeypatch.setattr(OneStepGenerator, "sampling", lambda _: {"r_init": 0.6})
    load_generator(saved)
    with pytest.raises(UsageError, match="has no sampling temperature"):
        load_generator(saved, temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_impossible_temperatures_are_refused(saved, temperature):
    with pytest.raises(UsageError, match="temperature must be above 0"):
        load_generator(saved, temperature=temperature)


def test_a_card_that_was_cut_or_changed_is_damaged(saved, tmp_path):
    lines = Folder(saved).read(CARD).splitlines(keepends=True)
    sealed = [b"".join(lines[:count]) for count in range(1, len(lines))]
    sealed.append(b"".join(lines).replace(b"r_init: 0.6", b"r_init: 0.5"))
    for text in sealed:
        Folder(tmp_path).write(CARD, text)
        with pytest.raises(CheckpointError, match=r"generator\.yaml"):
            read_card(Folder(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "entry"),
    [
        ("teacher", None, "'teacher.name'"),
        ("teacher", {"name": 3}, "'teacher.name'"),
        ("generator", [], "'generator.name'"),
        ("frozen", None, "'frozen'"),
        ("frozen", "a", "'frozen'"),
        ("sha256", {}, "'sha256.generator.safetensors'"),
    ],
)
def test_a_card_without_checksum_is_looked_at_entry_by_entry(saved, tmp_path, key, value, entry):
    card = {**read_card(Folder(saved)), key: value}
    Folder(tmp_path).write(CARD, yaml.safe_dump(card).encode())
    with pytest.raises(CheckpointError, match=rf"generator\.yaml .* the entry {entry}"):
        read_card(Folder(tmp_path))
