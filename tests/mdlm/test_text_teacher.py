"""The teacher of text that ships with the package: what its card says, and that it needs no option."""

import hashlib
import html
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dimo_core.cli import main as dimo
from dimo_core.config.pretrain import PretrainDraft
from dimo_core.testing import check_teacher
from dimo_mdlm.embedded import NAME, Text
from dimo_mdlm.parts import CARD
from dimo_mdlm.recipes import RECIPES
from dimo_text.scripture.books import KINDS
from dimo_text.scripture.data import Scripture

FOLDER = Path(str(files("dimo_mdlm") / "embedded"))
QUICK = ["--train.sample_every", "0", "--device", "cpu", "--batch-size", "2"]


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / CARD).read_text())
    return read


def test_files_are_those_of_the_card_and_small(card: dict[str, Any]) -> None:
    digests = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in card["sha256"]}
    assert card["sha256"] == digests
    inside = {path.name for path in FOLDER.iterdir()}
    assert {"README.md", CARD, "config.json", *digests} == inside
    assert sum(p.numel() for p in Text().network().parameters()) < 3e6


def test_the_conformance_kit() -> None:
    check_teacher(Text(), ["poetry", 0])


def test_it_is_a_teacher_of_six_kinds_of_text(card: dict[str, Any]) -> None:
    teacher = Text()
    assert KINDS == teacher.conditioning.classes
    assert (64, 512) == (teacher.tokens.length, teacher.tokens.codes)
    assert NAME == teacher.provenance()["folder"]
    assert "scripture" == teacher.evaluation().data.name
    assert yaml.safe_load(yaml.safe_dump(Scripture().evaluation().as_dict())) == card["evaluation"]


def test_the_recipe_in_the_package_is_that_of_the_card(card: dict[str, Any]) -> None:
    recipe = yaml.safe_load((FOLDER.parent / "embedded.yaml").read_text())
    config = dict(PretrainDraft.resolve({**recipe, "out": "unused"}).config)
    for section in ("data", "objective", "train", "seed"):
        assert card["pretraining"][section] == config[section], section


def test_it_learnt_the_language() -> None:
    """Of held-out text, half of it masked, it tells more tokens than the most frequent one would be."""
    teacher = Text()
    held = teacher.packed(Scripture().load("reference"))
    x, c = held.tokens[::20].long(), held.labels[::20]
    masked = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden = torch.where(masked, teacher.tokens.mask_id, x)
    with torch.no_grad():
        guess = teacher.network().logits(hidden, c, mask_ratio=masked.double().mean(1).float()).argmax(-1)
    assert (guess == x)[masked].double().mean() > 0.2


def test_its_presets_are_those_of_small_teachers() -> None:
    assert {"few-step", "idlm", "sdtt", "imdm"} == RECIPES["small"].keys() == Text().recipes().keys()


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(RECIPES["small"]))
def test_presets_distil_it_with_no_other_option(preset: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["--steps", "3", "--eval.enabled", "false", *QUICK]
    assert 0 == dimo(["run", "--teacher", "text", "--preset", preset, "--out", str(out), *few])
    drawn = ["--count", "3", "--conditions", "poetry", "--out", str(tmp_path / "drawn")]
    assert 0 == dimo(["sample", str(out), *drawn])
    lines = (tmp_path / "drawn" / "samples.txt").read_text().splitlines()
    assert 3 == len(lines)
    assert all(len(line) > 64 for line in lines)


@pytest.mark.slow
def test_a_run_is_judged_by_the_reader_and_shows_samples_as_text(tmp_path: Path) -> None:
    """With the default preset, few-step."""
    out = tmp_path / "run"
    few = ["--eval.samples", "12", "--eval.steps", "[2,1]"]
    assert 0 == dimo(["run", "--teacher", "text", "--steps", "2", "--out", str(out), *few, *QUICK])
    shown = html.unescape((out / "report.html").read_text())
    drawn = (out / "samples" / "step_000002.txt").read_text().splitlines()
    assert {kind.split()[0] for kind in drawn} == {*KINDS}
    assert all(line[20:80] in shown for line in drawn)
    two = ["--count", "2", "--conditions", "poetry", "--out", str(tmp_path / "drawn")]
    assert 0 == dimo(["sample", str(out), *two])
    assert 2 == len((tmp_path / "drawn" / "samples.txt").read_text().splitlines())
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    for row in rows:
        assert {"perplexity", "entropy", "words", "kind", "mauve", "ngram_3"} <= row["metrics"].keys()
    assert {"teacher", "generator", "real"} == {row["kind"] for row in rows}


def test_a_machine_without_optional_libraries_samples_and_judges(tmp_path: Path) -> None:
    """In a process of its own, in which importing one of them is an error, and so is opening a connection."""
    program = """
import socket, sys
for name in ("transformers", "tokenizers", "datasets", "huggingface_hub", "peft", "diffusers", "sklearn"):
    sys.modules[name] = None
def refuse(*_, **__): raise AssertionError("a connection")
socket.socket.connect = refuse
from dimo_core.cli import main
sys.exit(main(sys.argv[1:]))
"""
    given = ["compare", "--teacher", "text", "--sampling-steps", "1", "--samples", "10"]
    given += ["--out", str(tmp_path / "judged")]
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True, timeout=120
    )
    assert 0 == done.returncode, done.stderr
    rows = json.loads((tmp_path / "judged" / "results.json").read_text())["rows"]
    assert ["teacher", "real"] == [row["kind"] for row in rows]
    assert all({"perplexity", "words", "mauve", "ngram_3"} <= row["metrics"].keys() for row in rows)
