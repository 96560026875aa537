"""Weights files: same bytes, strict names and shapes, damage found, nothing executed."""

import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, NumericalError
from dimo_core.files import weights
from dimo_core.files.folder import Folder
from dimo_core.files.weights import (
    assign,
    check_finite,
    digest_tensors,
    encode_tensors,
    read_tensors,
    sha256,
    write_tensors,
)

TENSORS = {
    "b": torch.arange(6.0).view(2, 3).t(),
    "a": torch.tensor([1, -(2**62)]),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_tensors_come_back_bit_by_bit(folder: Folder) -> None:
    folder.write("w", encode_tensors(TENSORS))
    back = read_tensors(folder, "w", sha256(encode_tensors(TENSORS)))
    assert TENSORS.keys() == back.keys()
    for name, tensor in TENSORS.items():
        assert tensor.dtype == back[name].dtype
        assert torch.equal(tensor, back[name])


ODD = {
    **TENSORS,
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "nothing": torch.zeros(3, 0, 2),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "complex": torch.tensor([1 + 2j]),
    "eight": torch.tensor([1.0, -2.0, 0.5]).to(torch.float8_e4m3fn),
    'ä "quoted"\n\x7f\\': torch.arange(3, dtype=torch.int16),
    "view": torch.arange(12).view(3, 4)[:, 1:3],
}


@pytest.mark.parametrize("tensors", [ODD, TENSORS, {}], ids=["odd", "some", "none"])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["bare", "metadata"])
def test_the_bytes_are_those_that_the_library_writes(
    folder: Folder, tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    expected = safetensors.torch.save(plain, metadata)
    digest = write_tensors(folder, "w", tensors, metadata)
    assert expected == folder.read("w") == encode_tensors(tensors, metadata)
    assert sha256(expected) == digest == digest_tensors(tensors, metadata)


def test_a_file_is_handed_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()

    class Counted(Folder):
        def write(self, name: str, data: bytes | Iterable[bytes | memoryview], **_: bool) -> None:
            sizes.extend(map(len, data))

    monkeypatch.setattr(weights, "BLOCK", 1000)
    write_tensors(Counted("nowhere"), "w", {"a": torch.zeros(600), "b": torch.zeros(2)})
    assert [1000, 1000, 400, 8] == sizes[1:]


GROWTH = """
import resource, sys, torch
from dimo_core.engine.checkpoint import load_checkpoint, save_checkpoint
from dimo_core.files.folder import Folder
folder, peak = Folder(sys.argv[1]), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
state = {part: {str(i): torch.ones(32, 2**18) for i in range(3)} for part in ("g", "g.average")}
save_checkpoint(folder, "small", {"g": {"0": torch.ones(1)}}, {"step": 0})
before = peak()
save_checkpoint(folder, "step_000001", state, {"step": 1})
_, files = load_checkpoint(folder.sub("step_000001"))
print(before, peak())
"""


def test_neither_saving_nor_reading_a_checkpoint_takes_memory_for_its_files(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True)
    assert "" == done.stderr
    before, loaded = map(int, done.stdout.split())
    assert 192 < before  # MiB: the state itself
    assert loaded - before < 32  # one of its tensors


def test_the_order_of_names_does_not_change_the_bytes() -> None:
    assert encode_tensors(TENSORS) == encode_tensors(dict(reversed(TENSORS.items())))


def test_a_gradient_is_not_written(folder: Folder) -> None:
    folder.write("w", encode_tensors({"a": torch.ones(2, requires_grad=True)}))
    assert not read_tensors(folder, "w")["a"].requires_grad


def test_a_missing_file_is_an_error(folder: Folder) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*/w"):
        read_tensors(folder, "w")


def test_a_changed_byte_is_found_by_its_digest(folder: Folder) -> None:
    data = encode_tensors(TENSORS)
    folder.write("w", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(folder, "w", sha256(data))


class TestCached:
    @pytest.fixture
    def remote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
        monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
        folder = Folder("memory://cached-weights")
        folder.write("w.safetensors", encode_tensors(TENSORS))
        yield folder
        fsspec.filesystem("memory").rm("/cached-weights", recursive=True)

    def test_a_remote_file_is_kept_on_this_machine(self, remote: Folder) -> None:
        digest = sha256(encode_tensors(TENSORS))
        first = read_tensors(remote, "w.safetensors", digest, cached=True)
        remote.write("w.safetensors", b"newer")
        second = read_tensors(remote, "w.safetensors", digest, cached=True)
        for name, tensor in TENSORS.items():
            assert torch.equal(tensor, first[name])
            assert torch.equal(tensor, second[name])
        with pytest.raises(CheckpointError, match="is not a safetensors file"):
            read_tensors(remote, "w.safetensors")

    def test_a_local_file_is_read_where_it_is(self, remote: Folder, folder: Folder, tmp_path: Path) -> None:
        folder.write("w", encode_tensors(TENSORS))
        assert torch.equal(TENSORS["a"], read_tensors(folder, "w", cached=True)["a"])
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("kind", ["remote", "folder"])
    def test_another_file_than_expected_is_refused(self, kind: str, request: pytest.FixtureRequest) -> None:
        where: Folder = request.getfixturevalue(kind)
        where.write("w.safetensors", encode_tensors(TENSORS))
        with pytest.raises(CheckpointError, match="another file than expected"):
            read_tensors(where, "w.safetensors", "0" * 64, cached=True)
        with pytest.raises(CheckpointError, match=r"no file .*/none"):
            read_tensors(where, "none", cached=True)
        where.write("x.safetensors", b"noise")
        with pytest.raises(CheckpointError, match=r"x.safetensors is not a safetensors file"):
            read_tensors(where, "x.safetensors", cached=True)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "data",
    [b"", b"short", encode_tensors(TENSORS)[:-3], b"\xff" * 64, pickle.dumps(Bomb())],
    ids=["empty", "short", "cut", "noise", "pickle"],
)
def test_other_files_are_refused_and_not_executed(
    folder: Folder, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.write("w", data)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_tensors(folder, "w")
    assert not Path("exploded").exists()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_assign_copies_parameters_and_buffers() -> None:
    a, b = network(), network()
    a[1].running_mean.fill_(3)  # type: ignore[union-attr,operator]
    pointers = [p.data_ptr() for p in b.parameters()]
    assign(b, a.state_dict(), "here")
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name])
    assert pointers == [p.data_ptr() for p in b.parameters()]


def test_every_difference_is_listed() -> None:
    tensors = network().state_dict()
    tensors["0.weight"] = torch.zeros(2, 4)
    tensors["new"] = tensors.pop("1.bias")
    with pytest.raises(CheckpointError) as caught:
        assign(network(), tensors, "old.safetensors")
    assert (
        "old.safetensors does not fit the network (3 differences):\n"
        "  missing: 1.bias [2]\n"
        "  shape: 0.weight is [2, 4], the network has [2, 3]\n"
        "  unexpected: new [2]"
    ) == str(caught.value)


def test_a_refused_file_changes_nothing() -> None:
    net = network()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    tensors = {name: torch.ones_like(t) for name, t in before.items()} | {"new": torch.ones(1)}
    with pytest.raises(CheckpointError):
        assign(net, tensors, "here")
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_a_long_list_of_differences_is_cut() -> None:
    tensors = {f"x{i}": torch.ones(1) for i in range(30)}
    with pytest.raises(CheckpointError, match=r"\(37 differences\)[\s\S]*and 25 more$"):
        assign(network(), tensors, "here")


def test_a_prefix_that_hides_the_names_comes_first_and_both_kinds_are_shown() -> None:
    own = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    given = {f"student.{name}": tensor for name, tensor in own.state_dict().items()}
    given |= {f"ema.{name}": tensor for name, tensor in list(own.state_dict().items())[:2]}
    with pytest.raises(CheckpointError) as caught:
        assign(own, given, "c.ckpt")
    first, *lines = str(caught.value).split("\n  ")
    assert (
        "c.ckpt does not fit the network: its names carry the prefix 'student.', as do others 'ema.'; "
        "without it 40 of 40 fit. Of a file, FILE::student takes these (82 differences):"
    ) == first
    assert [6, 6] == [sum(line.startswith(kind) for line in lines) for kind in ("missing", "unexpected")]
    assert "... and 70 more" == lines[-1]


def test_a_prefix_of_the_network_itself_is_put_back() -> None:
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    bare = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    assign(own, bare, "here")
    assert torch.equal(torch.ones(2, 2), own["model"].weight)
    assign(own, {f"model.{name}": tensor + 1 for name, tensor in bare.items()}, "here")
    assert torch.equal(torch.ones(2), own["model"].bias)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_and_named(value: float) -> None:
    net = network()
    check_finite("it", net.state_dict())
    net[1].running_mean[0] = value  # type: ignore[index,operator]
    with pytest.raises(NumericalError, match=r"it: 1 tensors .* such as '1.running_mean'"):
        check_finite("it", net.state_dict())
