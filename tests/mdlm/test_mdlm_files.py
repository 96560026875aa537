"""Weights in every layout that is read, and one line for each that is none."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_core.cli import main as dimo
from dimo_core.errors import CheckpointError, ConfigError, DimoError
from dimo_mdlm.parts import pinned
from dimo_mdlm.teacher import Mdlm

DATA = Path(__file__).parents[1] / "data" / "mdlm"
GOLDEN = Mdlm(checkpoint=str(DATA))
State = dict[str, Tensor]


def same(teacher: Mdlm, factor: float = 1.0) -> None:
    """The teacher has the golden weights, or that many times these."""
    expected, actual = GOLDEN.network().state_dict(), teacher.network().state_dict()
    assert expected.keys() == actual.keys()
    assert [] == [name for name in expected if not torch.equal(factor * expected[name], actual[name])]


def renamed(state: State, old: str, new: str) -> State:
    return {new + name.removeprefix(old): tensor for name, tensor in state.items()}


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name.removeprefix("backbone.") not in names}


def test_names_are_the_published_ones_one_to_one(state: State) -> None:
    own = {f"backbone.{name}": t.shape for name, t in GOLDEN.network().state_dict().items()}
    assert {name: t.shape for name, t in without(state, "rotary_emb.inv_freq").items()} == own


def test_the_published_size_has_the_published_number_of_parameters(tmp_path: Path) -> None:
    sizes = {"vocab_size": 50258, "model_length": 1024, "hidden_dim": 768, "cond_dim": 128, "n_blocks": 12}
    config = json.loads((DATA / "config.json").read_text()) | sizes | {"n_heads": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        network = Mdlm(checkpoint=str(tmp_path)).skeleton()
    assert (130, 169_627_218) == (
        len(list(network.parameters())),
        sum(p.numel() for p in network.parameters()),
    )


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "backbone.backbone.", "model.backbone.", "_orig_mod.backbone."]
)
def test_prefixes(prefix: str, state: State, publish: Callable[..., Path]) -> None:
    same(Mdlm(checkpoint=str(publish(renamed(state, "backbone.", prefix)))))


def test_a_weights_file_alone_tells_all_but_its_length(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "w.safetensors")
    teacher = Mdlm(checkpoint=str(tmp_path / "w.safetensors"), length=12)
    same(teacher)
    assert GOLDEN.architecture == teacher.architecture
    assert 1024 == Mdlm(checkpoint=str(tmp_path / "w.safetensors")).tokens.length


def test_the_frequencies_may_be_missing_where_the_heads_are_known(
    tmp_path: Path, state: State, publish: Callable[..., Path]
) -> None:
    bare = without(state, "rotary_emb.inv_freq")
    same(Mdlm(checkpoint=str(publish(bare))))
    save_file(bare, tmp_path / "w.safetensors")
    same(Mdlm(checkpoint=str(tmp_path / "w.safetensors"), heads=4))
    with pytest.raises(ConfigError, match=r"neither rotary_emb.inv_freq nor a config.json.*--teacher.heads"):
        Mdlm(checkpoint=str(tmp_path / "w.safetensors")).check()


def test_the_average_of_a_lightning_checkpoint_is_taken(lightning: Path, told: list[str]) -> None:
    same(Mdlm(checkpoint=str(lightning)), 2.0)
    assert any("the average of the weights is taken" in line for line in told)


def test_its_raw_weights_are_taken_where_they_are_named(lightning: Path) -> None:
    same(Mdlm(checkpoint=f"{lightning}::state_dict"))


def test_an_average_of_other_shapes_is_refused(tmp_path: Path, state: State) -> None:
    average = [t for name, t in state.items() if not name.endswith("inv_freq")][1:]
    torch.save({"state_dict": state, "ema": {"shadow_params": average}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"ema.shadow_params, has 29 tensors.*of its 30 weights"):
        Mdlm(checkpoint=str(tmp_path / "x.ckpt")).check()
    torch.save({"state_dict": state, "ema": {"shadow_params": ["no"]}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"in ema.shadow_params is what is no tensor: str"):
        Mdlm(checkpoint=str(tmp_path / "x.ckpt")).check()


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Hostile.place),)

    place = Path("unset")


def test_nothing_in_a_file_is_executed(tmp_path: Path, state: State) -> None:
    Hostile.place = tmp_path / "executed"
    torch.save({"state_dict": state, "hyper_parameters": Hostile()}, tmp_path / "x.ckpt")
    same(Mdlm(checkpoint=str(tmp_path / "x.ckpt")))
    assert not Hostile.place.exists()


def changed(state: State, name: str, tensor: Tensor) -> State:
    return {**state, f"backbone.{name}": tensor}


WRONG: dict[str, tuple[Callable[[State], State], dict[str, Any], str]] = {
    "heads": (
        lambda s: s,
        {"n_heads": 2},
        r"inv_freq holds 4 numbers; heads of width 16 rotate by",
    ),
    "frequencies": (
        lambda s: changed(s, "rotary_emb.inv_freq", torch.ones(4)),
        {},
        r"rotary_emb.inv_freq holds 4 numbers; heads of width 8 .*10000\^\(-2j/8\)",
    ),
    "missing": (
        lambda s: without(s, "blocks.1.norm1.weight"),
        {},
        r"does not fit the network \(1 differences\):\n  missing: blocks.1.norm1.weight \[32\]",
    ),
    "shape": (
        lambda s: changed(s, "blocks.0.mlp.0.bias", torch.zeros(127)),
        {},
        r"shape: blocks.0.mlp.0.bias is \[127\], the network has \[128\]",
    ),
    "more": (lambda s: changed(s, "x", torch.zeros(1)), {}, r"unexpected: x \[1\]"),
    "vocabulary": (lambda s: s, {"vocab_size": 31}, r"shape: vocab_embed.embedding is \[30, 32\]"),
    "model": (
        lambda s: s,
        {"model_type": "gpt2"},
        r"describes no MDLM: its model_type is 'gpt2'",
    ),
    "size": (lambda s: s, {"n_blocks": "two"}, r"lacks n_blocks: each is a whole number"),
    "division": (lambda s: s, {"n_heads": 5}, r"width 32 is not divisible by twice the heads, 5"),
    "layers": (lambda s: s, {"n_blocks": 10**7}, r"10,000,000 layers; 10,000 is the most"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case: str, state: State, publish: Callable[..., Path]) -> None:
    change, config, message = WRONG[case]
    with pytest.raises(CheckpointError, match=message):
        Mdlm(checkpoint=str(publish(change(state), **config))).network()


def test_other_networks_and_no_network_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'mdlm' has no weights of its own. --teacher.checkp"):
        Mdlm().check()
    with pytest.raises(CheckpointError, match=r"neither teacher.yaml nor config.json is there"):
        Mdlm(checkpoint=str(tmp_path)).check()
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no MDLM network: vocab_embed.embedding .*It holds: x"):
        Mdlm(checkpoint=str(tmp_path / "x.safetensors")).check()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is no configuration"):
        Mdlm(checkpoint=str(tmp_path / "x.safetensors")).check()


def test_sizes_alone_are_enough_for_a_dry_run(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_bytes((DATA / "config.json").read_bytes())
    given = ["run", "--teacher", "mdlm", "--teacher.checkpoint", str(tmp_path), "--data", "text-files"]
    given += ["--data.path", str(tmp_path), "--out", str(tmp_path / "run")]
    assert 0 == dimo([*given, "--dry-run"]), capsys.readouterr().err
    assert 0 != dimo(given)
    assert "model.safetensors: the weights that" in capsys.readouterr().err


def test_a_folder_of_dimo_needs_no_heads(tmp_path: Path) -> None:
    GOLDEN.save(str(tmp_path), GOLDEN.network(), {})
    with pytest.raises(ConfigError, match=r"--teacher.heads goes with weights of others"):
        Mdlm(checkpoint=str(tmp_path), heads=4).check()
    assert 7 == Mdlm(checkpoint=str(tmp_path), length=7).tokens.length


def test_a_saved_teacher_is_the_published_pair_of_files_and_the_same_teacher(
    tmp_path: Path, state: State
) -> None:
    GOLDEN.save(str(tmp_path), GOLDEN.network(), {})
    written = load_file(tmp_path / "model.safetensors")
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in state)
    own = json.loads((tmp_path / "config.json").read_text())
    assert own.items() <= json.loads((DATA / "config.json").read_text()).items()
    again = Mdlm(checkpoint=str(tmp_path))
    same(again)
    assert GOLDEN.architecture == again.architecture
    (tmp_path / "teacher.yaml").unlink()
    same(Mdlm(checkpoint=str(tmp_path)))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    GOLDEN.save(str(tmp_path), GOLDEN.network(), {})
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        Mdlm(checkpoint=str(tmp_path)).network()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the teacher folder is not complete"):
        Mdlm(checkpoint=str(tmp_path)).check()


@pytest.mark.parametrize("named", ["folder", "average"])
def test_foreign_files_are_converted(named: str, tmp_path: Path, lightning: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    given = {"folder": [str(DATA)], "average": [str(lightning), "--teacher.length", "12"]}[named]
    assert 0 == dimo(["convert", "--teacher", "mdlm", "--out", str(out), "--teacher.checkpoint", *given])
    same(Mdlm(checkpoint=str(out)), 2.0 if named == "average" else 1.0)
    assert "model.safetensors before conversion" in Mdlm(checkpoint=str(out)).provenance()


def test_a_revision_is_part_of_the_address() -> None:
    assert "hf://kuleshov-group/mdlm-owt@abc" == pinned("hf://kuleshov-group/mdlm-owt", "abc")
    assert "hf://a/b@abc/x/w.ckpt" == pinned("hf://a/b/x/w.ckpt", "abc")
    assert "some/where" == pinned("some/where", None)
    for url in ("some/where", "hf://a/b@main", "hf://a"):
        with pytest.raises(ConfigError, match=r"--teacher.revision abc goes with an address hf://OWNER/NAME"):
            pinned(url, "abc")


def test_the_hub_is_read_at_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of the Hub is replaced by one in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):
        protocol = "hf"
        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("hf://").strip("/")

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Hub)
    hub = fsspec.filesystem("hf")
    for name in ("config.json", "model.safetensors"):
        hub.pipe(f"hf://kuleshov-group/mdlm-owt@abc/{name}", (DATA / name).read_bytes())
    teacher = Mdlm(checkpoint="hf://kuleshov-group/mdlm-owt", revision="abc")
    same(teacher)
    assert "hf://kuleshov-group/mdlm-owt@abc/model.safetensors" == teacher.provenance()["network"]
    with pytest.raises(CheckpointError, match=r"no file hf://kuleshov-group/mdlm-owt@def/config.json"):
        Mdlm(checkpoint="hf://kuleshov-group/mdlm-owt", revision="def").check()


def test_without_the_library_of_the_hub_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(url: str, *_: Any, **__: Any) -> Any:
        raise ImportError("Install huggingface_hub to access HfFileSystem")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(DimoError, match=r"Install huggingface_hub.*pip install 'dimo\[hub\]'"):
        Mdlm(checkpoint="hf://kuleshov-group/mdlm-owt").check()
