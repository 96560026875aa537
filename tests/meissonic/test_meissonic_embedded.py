"""The teacher of scenes that ships with the package: what its card says, and that it needs no option."""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dimo_core.conditions import Conditioning
from dimo_core.config.distil import resolve_job
from dimo_core.config.pretrain import PretrainDraft
from dimo_core.draws import Draws
from dimo_core.method.one_step import OneStep
from dimo_core.teacher import to_uint8
from dimo_meissonic.files import CARD
from dimo_meissonic.teacher import Meissonic
from dimo_scenes.captions import TAGS, parse
from dimo_scenes.combinations import unseen

FOLDER = Path(str(files("dimo_meissonic") / "embedded"))
TEXT = Conditioning(kind="text")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / CARD).read_text())
    return read


@pytest.fixture(scope="module")
def teacher() -> Meissonic:
    return Meissonic()


def test_files_are_those_of_the_card_and_small(card: dict[str, Any]) -> None:
    digests = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in card["sha256"]}
    assert card["sha256"] == digests
    inside = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file()}
    shards = {f"prompts-{number:04d}.tar" for number in range(4)}
    assert {"README.md", CARD, "held_out.txt", *shards, *digests} == inside
    assert sum(p.stat().st_size for p in FOLDER.rglob("*.safetensors")) < 12e6


def test_the_network_has_at_most_four_million_parameters(teacher: Meissonic) -> None:
    assert 1e6 < sum(p.numel() for p in teacher.network().parameters()) < 4e6
    assert 64 == teacher.tokens.length


def among(told: Any, now: Any) -> Any:
    """Of what is said now, that of which something was said before."""
    return {key: among(told[key], now[key]) for key in told} if isinstance(told, dict) else now


def test_the_recipe_in_the_package_is_that_of_the_card(card: dict[str, Any]) -> None:
    recipe = yaml.safe_load((FOLDER.parent / "embedded.yaml").read_text())
    config = dict(PretrainDraft.resolve({**recipe, "out": "unused"}).config)
    for section in ("teacher", "model", "data", "objective", "train", "seed"):
        told = card["pretraining"][section]  # what it was trained with, before there were further options
        assert told == among(told, config[section]), section


def test_a_run_without_options_streams_training_prompts_and_is_judged_by_held_out_ones(
    tmp_path: Path,
) -> None:
    job = resolve_job({"teacher": {"name": "meissonic"}, "out": str(tmp_path / "run")})
    assert "prompts" == job.config["conditions"]["name"]
    stream = job.conditions.open(TEXT, seed=0)
    assert not any(unseen(parse(text)) for text in stream.read(0, 64))
    shown = [parse(text) for text in job.conditions.balanced(TEXT, 480)]
    turns = [shown[i : i + 5] for i in range(0, 480, 5)]
    assert all(sorted(TAGS) == sorted(caption.tag for caption in turn) for turn in turns)
    few = job.conditions.balanced(TEXT, 8)
    assert set(TAGS) == {parse(text).tag for text in few}
    assert all(len(unseen(caption)) == 1 for caption in shown)


def test_a_converted_copy_promises_no_prompts_that_are_not_there(teacher: Meissonic, tmp_path: Path) -> None:
    teacher.save(str(tmp_path / "copy"), teacher.network(), {})
    copy = Meissonic(checkpoint=str(tmp_path / "copy"))
    assert not any("conditions" in recipe for recipe in copy.recipes().values())
    assert copy.evaluation() == teacher.evaluation()


def test_images_follow_the_prompt(teacher: Meissonic) -> None:
    """The one-step generator is untrained here: colours of one forward pass are already those asked for."""
    prompts = [f"a {colour} one" for colour in ("red", "green", "blue") for _ in range(8)]
    c = teacher.encode_conditions(prompts)
    generator = OneStep(r_init=1.0, sigma_init=0.0).build(teacher).eval()
    x = generator.sample(c, Draws(seed=0, total=len(prompts)))
    images = to_uint8(teacher.decode(x, c)).double().mean((2, 3)).view(3, 8, 3).mean(1)
    assert [0, 1, 2] == images.argmax(1).tolist()
    assert torch.isfinite(images).all()
