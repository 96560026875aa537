"""``dimo doctor`` finds what is there and what is missing, and never fails itself."""

import json
import subprocess
import sys

import pytest
from loguru import logger

from dimo_core.cli import main
from dimo_core.jobs import doctor


@pytest.fixture(autouse=True)
def _quiet():
    yield
    logger.remove()


def answers(monkeypatch, table):
    """Other interpreters answer from a table: the first entry whose key is among their arguments."""

    def python(*arguments):
        joined = " ".join(arguments)
        return next((answer for key, answer in table.items() if key in joined), ("", ""))

    monkeypatch.setattr(doctor, "_python", python)


HEALTHY = {
    "available_devices": ('["cuda:0", "cpu"]', ""),
    "plugins": ('{"plugins": [], "broken": []}', ""),
}


def test_a_healthy_machine_needs_no_advice(monkeypatch, capsys):
    answers(monkeypatch, HEALTHY)
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert 0 == main(["doctor"])
    text = capsys.readouterr().out
    assert "cuda:0, cpu" in text
    assert "nothing is missing that dimo itself needs" in text
    assert 0 == main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"versions", "extras", "devices", "libraries", "advice"} == set(found)
    assert ([], "torch") == (found["advice"], found["libraries"][0]["name"])
    assert found["versions"]["attrs"]


def test_missing_libraries_are_advised_on_by_command(monkeypatch):
    answers(monkeypatch, HEALTHY)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    advice = "\n".join(doctor.examine()["advice"])
    assert "dimo run, sample and pretrain need torch" in advice
    assert "torch-fidelity" in advice
    assert "spoils" not in advice


def test_a_torchvision_that_does_not_fit_is_told_and_costs_no_metric(monkeypatch):
    broken = ("", "RuntimeError: operator torchvision::nms does not exist")
    answers(monkeypatch, {"import torchvision": broken, "import torch_fidelity": broken, **HEALTHY})
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    found = doctor.examine()
    states = {library["name"]: library["state"] for library in found["libraries"]}
    assert "RuntimeError: operator torchvision::nms does not exist" == states["torchvision"]
    assert states["torch_fidelity"].startswith("ok")
    (advice,) = found["advice"]
    assert "torchvision does not fit torch" in advice


@pytest.mark.parametrize("answer", [("", "ended with code 1"), ("", "Segmentation fault"), ("no json", "")])
def test_interpreters_that_die_are_survived(monkeypatch, answer):
    monkeypatch.setattr(doctor, "_python", lambda *arguments: answer)
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    found = doctor.examine()
    assert [] == found["devices"]
    assert any("plugins could not be examined" in line for line in found["advice"])


def test_broken_plugins_are_part_of_the_advice(monkeypatch):
    row = {"state": "broken", "error": "metric 'x' cannot be loaded"}
    point = {"entry_point": "e", "dist": "d", "version": "1", "error": "no"}
    text = json.dumps({"plugins": [row, {"state": "ok", "error": ""}], "broken": [point]})
    answers(monkeypatch, {**HEALTHY, "plugins": (text, "ended with code 1")})
    assert ["metric 'x' cannot be loaded", "plugin 'e' of d 1: no"] == doctor.examine()["advice"][-2:]


def test_another_interpreter_is_asked_and_its_failure_is_an_answer(monkeypatch):
    assert ("3\n", "") == doctor._python("-c", "print(1 + 2)")
    assert ("", "RuntimeError: b") == doctor._python("-c", "raise RuntimeError('b')")
    assert ("1\n", "ended with code 3") == doctor._python("-c", "print(1); exit(3)")
    monkeypatch.setattr(doctor.sys, "executable", "/nowhere/python")
    assert "/nowhere/python" in doctor._python("-c", "1")[1]


def test_the_backend_of_a_notebook_is_left_out(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://that.is.not.here")
    assert ("None\n", "") == doctor._python("-c", "import os; print(os.environ.get('MPLBACKEND'))")
    code = "import os, dimo_core.report.plots; print(os.environ['MPLBACKEND'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "module://that.is.not.here\n") == (done.returncode, done.stdout), done.stderr
