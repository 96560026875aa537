"""Foreign weight files: every format and type, bit by bit as torch reads them; others are refused."""

import contextlib
import copy
import hashlib
import io
import math
import pickle
import resource
import sys
import tempfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from dimo_core.errors import CheckpointError
from dimo_core.files.foreign import read_foreign
from dimo_core.files.inert import Inert
from dimo_core.files.weight_sets import WRAPPERS

TYPES = (
    *("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"),
    *("complex64", "complex128"),
)
YOUNG_TYPES = (
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""Types without a class of storages; torch writes both containers with them and reads the zip only."""

CONTAINERS = {"zip": True, "legacy": False}
each_container = pytest.mark.parametrize("container", CONTAINERS)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "weights.pth")


def save(content: object, path: str, container: str = "zip") -> None:
    torch.save(content, path, _use_new_zipfile_serialization=CONTAINERS[container])


def raw(tensor: torch.Tensor) -> bytes:
    whole = tensor.detach().clone(memory_format=torch.contiguous_format).flatten()
    return bytes(whole.view(torch.uint8).tolist()) if len(whole) else b""


def assert_same(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> None:
    assert list(expected) == list(actual)
    for name, tensor in expected.items():
        other = actual[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert tensor.numel() == 0 or tensor.stride() == other.stride(), name
        assert raw(tensor) == raw(other), name
        assert not other.requires_grad
        assert other.device.type == "cpu"


def of_types(names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found = {name: getattr(torch, name, None) for name in names}
    return {name: torch.arange(32, dtype=torch.uint8).view(dtype) for name, dtype in found.items() if dtype}


def several() -> dict[str, torch.Tensor]:
    base = torch.arange(60.0).view(3, 4, 5)
    tied = nn.Linear(3, 3)
    return {
        **of_types(TYPES),
        "bool": torch.tensor([True, False, True]),
        "nan": torch.tensor([math.nan, -0.0, math.inf]),
        "0-d": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "turned": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3],
        "wide": torch.arange(3.0).expand(4, 3),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "half": nn.Parameter(torch.randn(3).half(), requires_grad=False),
        "tied.a": tied.weight,
        "tied.b": tied.weight,
    }


@each_container
def test_tensors_of_every_type_and_layout_are_those_that_torch_reads(path: str, container: str) -> None:
    save(several() | (of_types(YOUNG_TYPES) if container == "zip" else {}), path, container)
    file = read_foreign(path)
    assert_same(torch.load(path, weights_only=True), file.state_dict())
    assert () == file.inert
    assert path == file.source


@each_container
def test_types_without_a_class_of_storages_are_read(path: str, container: str) -> None:
    save(of_types(YOUNG_TYPES), path, container)
    assert_same(of_types(YOUNG_TYPES), read_foreign(path).state_dict())


@each_container
def test_views_of_one_storage_share_memory_again(path: str, container: str) -> None:
    save(several(), path, container)
    weights = read_foreign(path).state_dict()
    assert weights["tied.a"].data_ptr() == weights["tied.b"].data_ptr()
    weights["turned"][3, 1, 2] = -1
    assert weights["part"][0, 1] == -1
    assert weights["nan"].data_ptr() != weights["0-d"].data_ptr()


@each_container
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_strided_view_is_the_one_that_torch_reads(container: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    stride = data.draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    view = torch.arange(200, dtype=torch.int16).as_strided(shape, stride, data.draw(st.integers(0, 50)))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/x"
        save({"view": view}, path, container)
        assert_same(torch.load(path, weights_only=True), read_foreign(path).state_dict())


def test_safetensors_are_read(path: str) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1.5], dtype=torch.bfloat16)}
    save_file(tensors, path)
    file = read_foreign(path)
    assert_same(dict(sorted(tensors.items())), dict(sorted(file.state_dict().items())))
    assert () == file.inert


def test_the_digest_is_that_of_the_file(path: str) -> None:
    save({"a": torch.ones(1)}, path)
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == read_foreign(path).sha256


def test_a_remote_file_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path))
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    with fsspec.open("memory://foreign/teacher.pth", "wb") as file:
        file.write(buffer.getvalue())
    found = read_foreign("memory://foreign/teacher.pth")
    assert "memory://foreign/teacher.pth" == found.source
    assert torch.equal(torch.ones(2), found.state_dict()["a"])
    assert 1 == len([*tmp_path.rglob("teacher.pth")])


class TestFindingTheWeights:
    weights = {"a.weight": torch.ones(2), "b": torch.zeros(1)}  # noqa: RUF012

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_under_a_usual_key(self, path: str, wrapper: str) -> None:
        save({"iter": 3, "optimizer": {"state": {0: torch.ones(1)}}, wrapper: self.weights}, path)
        assert_same(self.weights, read_foreign(path).state_dict())

    def test_the_first_usual_key_wins(self, path: str) -> None:
        save(
            {"module": {"x": torch.ones(1)}, "model": {"y": torch.ones(1)}, "state_dict": self.weights}, path
        )
        assert_same(self.weights, read_foreign(path).state_dict())

    def test_under_two_keys(self, path: str) -> None:
        save({"model": {"state_dict": self.weights}}, path)
        assert_same(self.weights, read_foreign(path).state_dict())

    def test_in_an_ordered_dict_with_metadata(self, path: str) -> None:
        state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
        assert isinstance(state, OrderedDict)
        save({"model_state_dict": state}, path)
        assert_same(dict(state), read_foreign(path).state_dict())

    @pytest.mark.parametrize("average", ["ema", "model_ema", "ema_state_dict", "params_ema"])
    @pytest.mark.parametrize("raw", ["model", "state_dict", "params"])
    def test_raw_weights_beside_an_average_are_told_and_each_can_be_named(
        self, path: str, raw: str, average: str, told: list[str]
    ) -> None:
        averaged = {name: tensor + 5 for name, tensor in self.weights.items()}
        save({average: averaged, raw: self.weights, "optimizer": {"state": {0: torch.ones(1)}}}, path)
        assert_same(self.weights, read_foreign(path).state_dict())
        assert [
            f"{path}: several sets of weights: {raw!r} is taken, and there is {average!r} too; "
            f"name another as {path}::{average}\n"
        ] == told
        assert_same(averaged, read_foreign(f"{path}::{average}").state_dict())
        assert_same(self.weights, read_foreign(f"{path}::{raw}").state_dict())
        assert 1 == len(told)

    def test_an_average_alone_is_taken(self, path: str, told: list[str]) -> None:
        save({"ema": {"state_dict": self.weights}, "model": {"width": 3}}, path)
        assert_same(self.weights, read_foreign(path).state_dict())
        assert_same(self.weights, read_foreign(f"{path}::ema").state_dict())
        save({"ema": self.weights, "step": 3}, path)
        assert_same(self.weights, read_foreign(path).state_dict())
        assert [] == [line for line in told if "several" in line]

    def test_a_set_may_be_under_any_key_or_before_the_names(self, path: str) -> None:
        save({"critic": self.weights, "model": {"g.a": torch.ones(1), "h.a": torch.zeros(1)}}, path)
        assert_same(self.weights, read_foreign(f"{path}::critic").state_dict())
        assert_same({"a": torch.zeros(1)}, read_foreign(f"{path}::h").state_dict())
        with pytest.raises(
            CheckpointError, match=r"holds no set of weights 'ema'\. Top-level keys: 'critic'"
        ):
            read_foreign(f"{path}::ema").state_dict()

    def test_the_digest_of_a_named_set_is_its_own(self, path: str) -> None:
        save({"model": self.weights, "ema": self.weights}, path)
        digests = {read_foreign(url).sha256 for url in (path, f"{path}::ema", f"{path}::model")}
        assert 3 == len(digests)

    def test_a_name_like_a_usual_key_does_no_harm(self, path: str) -> None:
        weights = {"model": torch.ones(1), "weights": torch.zeros(2)}
        save(weights, path)
        assert_same(weights, read_foreign(path).state_dict())

    @pytest.mark.parametrize(
        "prefix",
        [
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.module.",
            "model.",
            "model._orig_mod.",
        ],
    )
    def test_prefixes_of_all_names_are_taken_off(self, path: str, prefix: str) -> None:
        save({prefix + name: tensor for name, tensor in self.weights.items()}, path)
        assert_same(self.weights, read_foreign(path).state_dict())

    def test_what_wraps_a_part_is_taken_out_of_the_names(self, path: str) -> None:
        names = (
            "blocks.0._orig_mod.w",
            "a._fsdp_wrapped_module._checkpoint_wrapped_module.w",
            "my_orig_mod.w",
        )
        save({name: torch.ones(1) for name in names}, path)
        assert ["blocks.0.w", "a.w", "my_orig_mod.w"] == list(read_foreign(path).state_dict())
        two = {"a._orig_mod.w": torch.ones(1), "a.w": torch.zeros(1)}
        save(two, path)
        assert_same(two, read_foreign(path).state_dict())

    def test_prefixes_of_some_names_stay(self, path: str) -> None:
        weights = {"module.a": torch.ones(1), "b": torch.ones(1)}
        save(weights, path)
        assert_same(weights, read_foreign(path).state_dict())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                {"epoch": 3, "args": [1]},
                r"no weights. Top-level keys: 'epoch' \(int\), 'args' \(list\). Looked",
            ),
            ({}, "Top-level keys: none"),
            ({"model": {}, "x": {"y": torch.ones(1)}}, r"'model' \(PlainDict\)|'model' \(dict\)"),
            ([torch.ones(1)], "It holds a list"),
            (torch.ones(1), "It holds a Tensor"),
            (nn.Linear(1, 1), "It is an object of torch.nn.modules.linear.Linear, pickled whole"),
            ({"model": nn.Linear(1, 1)}, r"'model' \(an object of torch.nn.modules.linear.Linear\)"),
        ],
    )
    def test_none_is_an_error_that_says_what_there_is(self, path: str, content: object, message: str) -> None:
        save(content, path)
        with pytest.raises(CheckpointError, match=message):
            read_foreign(path).state_dict()

    def test_what_is_no_tensor_beside_tensors_is_named(self, path: str) -> None:
        save({"model": {"a": torch.ones(1), "step": 3, "b": None, "c": nn.ReLU()}}, path)
        with pytest.raises(CheckpointError) as caught:
            read_foreign(path).state_dict()
        assert (
            f"{path}: beside 1 tensors model holds what is none: 'step' (int), 'b' (NoneType), "
            "'c' (an object of torch.nn.modules.activation.ReLU). "
            "Where it can be loaded: torch.save(model.state_dict(), 'weights.pth')."
        ) == str(caught.value)

    def test_names_that_are_no_text_are_named(self, path: str) -> None:
        save({0: torch.ones(1), "a": torch.ones(1)}, path)
        with pytest.raises(CheckpointError, match=r"no text: 0$"):
            read_foreign(path).state_dict()

    def test_a_tree_that_contains_itself_ends(self, path: str) -> None:
        tree: dict[str, object] = {}
        tree["model"] = tree
        save(tree, path)
        with pytest.raises(CheckpointError, match="no weights"):
            read_foreign(path).state_dict()


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Modules as old Lightning checkpoints name them; gone again when the test reads the file."""
    names = [
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.callbacks.model_checkpoint",
    ]
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    last = modules[names[-1]]
    for name, base in {"ModelCheckpoint": object, "AttributeDict": dict}.items():
        setattr(last, name, type(name, (base,), {"__module__": last.__name__}))
    return last


def test_a_lightning_checkpoint_is_read_without_lightning(
    path: str, lightning: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"encoder.weight": torch.randn(3, 2), "loss.x": torch.randn(1)}
    callback = lightning.ModelCheckpoint()
    callback.best = torch.ones(1)
    hyper = lightning.AttributeDict(embed_dim=256, ddconfig={"z_channels": 256})
    save(
        {
            "epoch": 5,
            "state_dict": OrderedDict(weights),
            "callbacks": {lightning.ModelCheckpoint: {"best_model_score": torch.ones(1)}, "object": callback},
            "hyper_parameters": hyper,
            "optimizer_states": [torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict()],
        },
        path,
    )
    for name in list(sys.modules):
        if name.startswith("pytorch_lightning"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    file = read_foreign(path)
    module = "pytorch_lightning.callbacks.model_checkpoint"
    assert (f"{module}.ModelCheckpoint", f"{module}.AttributeDict") == file.inert
    assert_same(weights, file.state_dict())
    assert isinstance(file.tree["hyper_parameters"], Inert)
    assert {"embed_dim": 256, "ddconfig": {"z_channels": 256}} == file.tree["hyper_parameters"].entries
    assert f"{module}.ModelCheckpoint" == file.tree["callbacks"]["object"].path
    assert 5 == file.tree["epoch"]
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


class Bomb:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(self.marker),))


@each_container
def test_a_hostile_file_does_nothing_and_gives_its_tensors(path: str, container: str, tmp_path: Path) -> None:
    save({"state_dict": {"a": torch.ones(2)}, "bomb": Bomb(str(tmp_path / "exploded"))}, path, container)
    file = read_foreign(path)
    assert_same({"a": torch.ones(2)}, file.state_dict())
    assert "pathlib.Path.touch" in ".".join(file.inert) or "builtins.getattr" in file.inert
    assert not (tmp_path / "exploded").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "exploded").exists()  # it would have


@each_container
@pytest.mark.parametrize("damaged", ["weights", "moments"])
def test_damage_in_the_weights_is_found_and_the_rest_is_not_looked_at(
    path: str, container: str, damaged: str
) -> None:
    tensors = {"weights": torch.full((5,), 2.0), "moments": torch.full((300,), 3.0)}
    save({"model": {"a": tensors["weights"]}, "optimizer": {"moments": tensors["moments"]}}, path, container)
    data = bytearray(Path(path).read_bytes())
    data[bytes(data).index(raw(tensors[damaged]))] ^= 1
    Path(path).write_bytes(data)
    file = read_foreign(path)
    if damaged == "moments":
        assert_same({"a": tensors["weights"]}, file.state_dict())
    elif container == "zip":  # only this one has checksums
        for _ in range(2):
            with pytest.raises(CheckpointError, match="is damaged: the checksum of storage '0' differs"):
                file.state_dict()


def test_tensors_of_a_zip_archive_are_mapped_and_writing_to_them_leaves_the_file_alone(path: str) -> None:
    save({"a": torch.ones(2_000_000)}, path)
    before = resident()
    file = read_foreign(path)
    assert {"a": (2_000_000,)} == file.shapes()
    assert resident() - before < 4_000_000
    file.state_dict()["a"][0] = 7
    assert 7 == file.state_dict()["a"][0]
    assert_same({"a": torch.ones(2_000_000)}, read_foreign(path).state_dict())


def resident() -> int:
    """Memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights"])
@each_container
def test_the_name_does_not_matter(tmp_path: Path, container: str, name: str) -> None:
    save({"a": torch.ones(2)}, str(tmp_path / name), container)
    assert_same({"a": torch.ones(2)}, read_foreign(str(tmp_path / name)).state_dict())


@each_container
def test_a_file_that_is_cut_is_refused(path: str, container: str) -> None:
    save({"a": torch.arange(1000.0)}, path, container)
    data = Path(path).read_bytes()
    for size in (40, 300, len(data) // 2, len(data) - 30):
        Path(path).write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"is damaged|neither"):
            read_foreign(path).state_dict()


def test_files_without_checksums_are_read(path: str) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save({"a": torch.ones(2)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same({"a": torch.ones(2)}, read_foreign(path).state_dict())


def rewritten(path: str, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """Change, add or remove (None) records of a torch zip file."""
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].split("/")[0]
        records: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    records |= {f"{folder}/{name}": data for name, data in change.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            if data is not None:
                archive.writestr(name, data)


def data_pkl(path: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byteorder": b"big"}, "other byte order"),
        ({"data.pkl": None}, "not one of torch.save"),
        ({"constants.pkl": b""}, "is a TorchScript archive: a program"),
        ({"code/x.py": b"", "CONSTANTS.pkl": b""}, "TorchScript"),
        ({"data/0": None}, "is damaged"),
        ({"data/0": b"x" * 7}, "storage '0' has 7 bytes, 8 were promised"),
        ({"data.pkl": b"."}, "is damaged"),
        ({"data.pkl": b"\x80\x02cx\ny\n\x82\x01."}, "extension code"),
    ],
)
def test_a_changed_archive_is_refused(path: str, change: dict[str, bytes | None], message: str) -> None:
    save({"a": torch.ones(2)}, path)
    rewritten(path, {})
    assert_same({"a": torch.ones(2)}, read_foreign(path).state_dict())
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(path)


def test_a_compressed_archive_is_refused(path: str) -> None:
    save({"a": torch.ones(2)}, path)
    rewritten(path, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_foreign(path)


def test_records_that_overlap_are_refused(path: str) -> None:
    """Many storages over the same bytes would make much memory of a small file."""
    save({"a": torch.ones(100)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        storage = next(record for record in archive.infolist() if record.filename.endswith("data/0"))
        for i in range(1, 9):
            other = copy.copy(storage)
            other.filename = other.filename[:-1] + str(i)
            archive.filelist.append(other)
        archive.writestr(storage.filename + "y", b"")
    with pytest.raises(CheckpointError, match="overlap"):
        read_foreign(path)


def test_a_tensor_conjugated_lazily_is_refused(path: str) -> None:
    save({"a": torch.ones(1, dtype=torch.complex64).conj()}, path)
    with pytest.raises(CheckpointError, match=r"resolve_conj"):
        read_foreign(path).state_dict()


def test_kinds_of_tensors_that_are_not_read_are_named(path: str) -> None:
    save({"a": torch.ones(1), "sparse": torch.eye(2).to_sparse()}, path)
    file = read_foreign(path)
    assert "torch._utils._rebuild_sparse_tensor" in file.inert
    with pytest.raises(
        CheckpointError, match=r"'sparse' \(an object of torch._utils._rebuild_sparse_tensor\)"
    ):
        file.state_dict()


def test_a_parameter_with_attributes_is_its_tensor(path: str) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "text"
    tensor = torch.zeros(2)
    tensor.note = "text"
    save({"a": parameter, "b": tensor}, path)
    assert_same({"a": torch.ones(2), "b": torch.zeros(2)}, read_foreign(path).state_dict())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "looks like an empty file"),
        (b"short", r"begins with b'short'"),
        (b"\n <!DOCTYPE html><html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "pointer of Git LFS"),
        (pickle.dumps({"a": 1}), "a pickle, but not one of torch.save"),
        (b"PK\x03\x04" + b"\0" * 50, "is damaged"),
        (b"\xff" * 100, "begins with"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "is not a safetensors file, or a damaged one"),
        (b"\xff\0\0\0\0\0\0\0{", "neither safetensors"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is damaged"),
    ],
)
def test_other_files_are_refused(path: str, data: bytes, message: str) -> None:
    Path(path).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(path)


def test_a_missing_file_is_named(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*/weights.pth"):
        read_foreign(path)


@each_container
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(container: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/x"
        save({"model": OrderedDict(a=torch.ones(2)), "b": [1, (2, "c")], "d": Inert}, path, container)
        content = bytearray(data_pkl(path) if container == "zip" else Path(path).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        if container == "zip":
            rewritten(path, {"data.pkl": bytes(content)})
        else:
            Path(path).write_bytes(content)
        with contextlib.suppress(CheckpointError):
            read_foreign(path).state_dict()


def test_a_tensor_without_strides_is_not_larger_than_a_machine(path: str) -> None:
    save({"w": torch.zeros(1).as_strided((2**40,), (0,))}, path)
    with pytest.raises(
        CheckpointError, match=r"a tensor of 1,099,511,627,776 elements, of which the file has 1"
    ):
        read_foreign(path).state_dict()


def test_a_tree_that_holds_itself_many_times_is_answered_at_once(path: str) -> None:
    tree: dict[str, object] = {}
    tree |= dict.fromkeys(WRAPPERS, tree)
    save(tree, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_foreign(path).state_dict()
