"""Generators from their folders: the temperature that they are loaded with."""

import pytest

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator, save_generator
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
