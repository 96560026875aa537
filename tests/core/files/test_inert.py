"""Hostile pickles in files of torch: nothing runs, and each is read inertly or refused in one line."""

import contextlib
import copyreg
import io
import math
import pickle
import resource
import shlex
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimo_core.errors import CheckpointError
from dimo_core.files import inert
from dimo_core.files.foreign import LEGACY, ForeignFile, read_foreign
from dimo_core.files.inert import Inert
from dimo_core.limits import SPREAD

CONTAINERS = ("zip", "legacy")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def contained(data: bytes, container: str, storage: bytes = bytes(16)) -> bytes:
    """A file of torch with this pickle in it, and a storage '0' of 4 floats."""
    if container == "legacy":
        around = [1001, {"little_endian": sys.byteorder == "little"}]
        keys = ["0"] if b"Q" in data else []
        filled = struct.pack("<q", len(storage) // 4) + storage if keys else b""
        return LEGACY + b"".join(pickle.dumps(x, 2) for x in around) + data + pickle.dumps(keys, 2) + filled
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", "data/0": storage}.items():
            archive.writestr(f"x/{name}", content)
    return buffer.getvalue()


def weight(data: bytes, container: str = "zip") -> torch.Tensor:
    """The tensor that a pickle describes, as the only one of a state dict."""
    return opened(b"}" + text("a") + data.removesuffix(b".") + b"s.", container).state_dict()["a"]


def opened(data: bytes, container: str = "zip") -> ForeignFile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        path.write_bytes(contained(data, container))
        return read_foreign(str(path))


def refused(data: bytes, container: str = "zip") -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(data, container).state_dict()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


each_container = pytest.mark.parametrize("container", CONTAINERS)

SH = b"](" + text("/bin/sh") + text("-c") + b"%se"  # ["/bin/sh", "-c", command]
SYSTEM, POPEN, GETATTR = b"cposix\nsystem\n", b"csubprocess\nPopen\n", b"cbuiltins\ngetattr\n"
IMPORT = b"cimportlib\nimport_module\n" + text("os") + b"\x85R" + text("system")
NAMESPACE = b"ctypes\nSimpleNamespace\n)R}"

BOMBS: dict[str, tuple[bytes, list[str] | str]] = {
    "GLOBAL REDUCE": (SYSTEM + b"%s\x85R.", ["posix.system"]),
    "STACK_GLOBAL": (b"\x80\x04" + text("posix") + text("system") + b"\x93%s\x85R.", ["posix.system"]),
    "Python 2": (
        b"c__builtin__\neval\n" + text("1") + b"\x85R0" + SYSTEM + b"%s\x85R.",
        ["builtins.eval", "posix.system"],
    ),
    "a dotted name": (
        b"\x80\x04" + text("builtins") + text("str.join") + b"\x930" + SYSTEM + b"%s\x85R.",
        ["builtins.str.join", "posix.system"],
    ),
    "INST": (b"(%siposix\nsystem\n.", "not allowed"),
    "OBJ": (b"(" + SYSTEM + b"%so.", "not allowed"),
    "NEWOBJ": (b"\x80\x02" + POPEN + SH + b"\x85\x810" + POPEN + SH + b"\x85R.", ["subprocess.Popen"]),
    "NEWOBJ_EX": (
        b"\x80\x04" + POPEN + b")}\x920" + SYSTEM + b"%s\x85R.",
        ["subprocess.Popen", "posix.system"],
    ),
    "BUILD": (
        NAMESPACE + text("__setstate__") + SYSTEM + b"sb%sb.",
        ["types.SimpleNamespace", "posix.system"],
    ),
    "APPENDS": (
        NAMESPACE + text("extend") + b"cfunctools\npartial\n" + SYSTEM + b"%s\x86Rsb(Ne0N.",
        ["types.SimpleNamespace", "functools.partial", "posix.system"],
    ),
    "importlib": (GETATTR + IMPORT + b"\x86R%s\x85R.", ["builtins.getattr", "importlib.import_module"]),
    "arguments of a tensor": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + SYSTEM + b"N%s\x85NtR.",
        ["posix.system"],
    ),
}
"""By the instruction that does the harm: a pickle with a place for a shell command, and names it asks for, or
what it is refused with."""

HARMFUL = [name for name in BOMBS if name not in ("NEWOBJ", "NEWOBJ_EX", "APPENDS", "arguments of a tensor")]
"""Those that a plain unpickler finishes; the others also feed the stubs what the real class would refuse."""


def armed(name: str, marker: Path) -> bytes:
    return BOMBS[name][0].replace(b"%s", text(f"touch {shlex.quote(str(marker))}"))


@each_container
@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_pickle_does_nothing_and_is_named(name: str, container: str, tmp_path: Path) -> None:
    data, expected = armed(name, tmp_path / "marker"), BOMBS[name][1]
    if isinstance(expected, str):
        assert expected in refused(data, container)
    else:
        assert expected == list(opened(data, container).inert)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", HARMFUL)
def test_the_same_pickle_does_harm_to_a_plain_unpickler(name: str, tmp_path: Path) -> None:
    pickle.loads(armed(name, tmp_path / "marker"))
    assert (tmp_path / "marker").exists()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_functions_of_the_library_stay_stubs_in_every_protocol(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = [
        Call(eval, "open('a', 'w')"),
        Call(exec, "open('b', 'w')"),
        Call(open, "c", "w"),
        Call(Path.touch, Path("d")),
        Call(torch.load, "e"),
        Call(torch.storage._load_from_bytes, b"f"),
        Call(setattr, Call(__import__, "os"), "name", "g"),
    ]
    file = opened(pickle.dumps(calls, protocol))
    assert [*tmp_path.iterdir()] == []
    assert all(isinstance(item, Inert) for item in file.tree)
    wanted = {"builtins.eval", "builtins.exec", "builtins.setattr", "builtins.__import__"}
    wanted |= {"torch.serialization.load", "torch.storage._load_from_bytes"}
    assert wanted <= set(file.inert)
    assert {"_io.open", "io.open"} & set(file.inert)


@each_container
def test_extension_codes_are_refused(container: str) -> None:
    copyreg.add_extension("posix", "system", 77)
    try:
        assert "extension code" in refused(b"\x80\x02\x82\x4d" + text("exit 1") + b"\x85R.", container)
    finally:
        copyreg.remove_extension("posix", "system", 77)


def tensor(storage: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x04\x85K\x01\x85\x89NtR"


def referring(pid: object) -> bytes:
    return pickle.dumps(pid, 2).removesuffix(b".") + b"Q."


PIDS = {"zip": (), "legacy": (None,)}


@each_container
@pytest.mark.parametrize(("count", "fits"), [(4, True), (5, False), (2**40, False), (2**63, False)])
def test_a_storage_is_no_longer_than_the_file(container: str, count: int, fits: bool) -> None:
    if container == "legacy" and count == 5:
        count = 500
    pid = ("storage", torch.FloatStorage, "0", "cuda:3", count, *PIDS[container])
    data = tensor(referring(pid)[2:-1])
    if fits:
        assert torch.equal(torch.zeros(4), weight(data, container))
    else:
        assert f"{4 * count} were promised" in refused(data + b".", container)


@each_container
@pytest.mark.parametrize("second", [("Float", 3), ("Int", 4)])
def test_a_storage_has_one_size_and_type(container: str, second: tuple[str, int]) -> None:
    kinds = [("Float", 4), second]
    pids = [("storage", getattr(torch, f"{n}Storage"), "0", "cpu", c, *PIDS[container]) for n, c in kinds]
    data = b"\x80\x02" + b"".join(referring(pid)[2:-1] for pid in pids) + b"\x86."
    assert "storage '0' has two sizes or types" in refused(data, container)


def test_a_storage_that_an_old_file_lacks_is_missed(tmp_path: Path) -> None:
    pid = ("storage", torch.FloatStorage, "0", "cpu", 4, None)
    whole = contained(referring(pid), "legacy")
    lacking = whole[: whole.index(pickle.dumps(["0"], 2))] + pickle.dumps([], 2)
    for name, data in {"whole": whole, "lacking": lacking + bytes(24)}.items():
        (tmp_path / name).write_bytes(data)
    read_foreign(str(tmp_path / "whole"))
    with pytest.raises(CheckpointError, match="it has no storage '0'"):
        read_foreign(str(tmp_path / "lacking"))


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
FLOATS = tensor(STORAGE)
"""The storage of 4 floats, and a tensor of them."""


REBUILD, FROM_TYPE, SIZE = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nSize\n",
)
REFUSED = {
    "an instruction that is not allowed": [
        getattr(pickle, name) + b"\0" * 9 + b"." for name in inert.REFUSED
    ],
    "a reference to something that is no storage": [
        referring(("storage", Call(torch.device, "cpu"), "0", "cpu", 1)),
        referring(("storage", torch.FloatStorage, 0, "cpu", 1)),
        referring(("storage", torch.FloatStorage, "0", "cpu", -1)),
        referring(("storage", torch.FloatStorage, "0", "cpu", 1, ("1", 0, 1))),
        referring(("storage", Call(eval, "1"), "0", "cpu", 1, None)),
        referring(("module", Call(eval, "1"))),
        referring(("module", Call(eval, "1"), "x.py", "class X: pass")),
        *(referring(pid) for pid in (("storage",), "storage", None)),
    ],
    "AttributeError: 'Storage' object has no attribute": [STORAGE + b"Na.", STORAGE + b"(Ne."],
    "TypeError: 'Storage' object does not support item assignment": [STORAGE + b"NNs."],
    "a call of a Storage": [STORAGE + b")R.", STORAGE + b")\x81.", STORAGE + b")}\x92."],
    "a call of a str": [text("text") + b"N\x85R."],
    "arguments that are no tuple": [SIZE + b"]R.", REBUILD + b"NR.", REBUILD + b"N\x81."],
    "IndexError": [b"]K\x00K\x00s."],
    "EOFError": [b"B\xff\xff\xff\xff.", b"\x8e" + b"\xff" * 7 + b"\x0fN.", b"\x8b\xff\xff\xff\x7fN."],
}
"""What is refused, by what is said of it."""

NO_WEIGHTS = {
    "a tensor without storage": [
        *(REBUILD + b"(NK\x00))NNtR", REBUILD + b"(" + FLOATS + b"K\x00))NNtR", REBUILD + b")R"),
        FROM_TYPE + b"(" + REBUILD + b"N])aNtR",
        FROM_TYPE + b"q\x000)q\x010" + b"(h\x00Nh\x01Ntq\x010" * 3000 + b"h\x00h\x01R",
    ],
    "offset, shape or stride": [
        REBUILD + b"(" + STORAGE + view + b"NNtR"
        for view in (
            *(b"N))", b"K\x00G" + bytes(8) + b"\x85)", b"K\0(" + b"K\1" * 65 + b"t2"),
            *(b"K\x00" + SIZE + b")\x85\x85R)", b"K\0]" + b"\x85" * 200_000 + b")"),
        )
    ],
    "RuntimeError": [REBUILD + b"(" + STORAGE + b"K\x00K\1K\1\x86K\1\x85NNtR"],
    "holds no weights": [FROM_TYPE + b"(ctorch\nfloat32\nN)NtR"],
}
"""What is refused as a tensor of a state dict, by what is said of it."""


@pytest.mark.parametrize("message", NO_WEIGHTS)
def test_what_describes_no_tensor_is_refused(message: str) -> None:
    for data in NO_WEIGHTS[message]:
        with pytest.raises(CheckpointError) as caught:
            weight(data)
        assert message in str(caught.value), data[:100]
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_small_file_takes_little_memory_and_time() -> None:
    for data in (
        *(b"}" + b")" + b"\x85" * 200_000 + b"Ns.", b"})" + b"2\x86" * 60 + b"Ns."),
        *(b"})" + b"q\x00h\x00\x86" * 60 + b"Ns.", b"}(" + b"2\x91" * 60 + b"Ns."),
        b"(" + b"N" * 9000 + b"tq\x000cbuiltins\nset\nq\x010" + b"h\x01h\x00R" * 20_000 + b".",
        b"(" + b"N" * 9000 + b"tq\x00" + b"Nbh\x00" * 20_000 + b".",
        *(b"Nr\xff\xff\xff\xff.", b"\x95" + b"\xff" * 7 + b"\x0fN."),  # a far place in the memo, a long frame
        b"]" * 20_000 + b"a" * 19_999 + b".",
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(CheckpointError):
            opened(data).state_dict()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_pickle_must_not_is_refused(message: str) -> None:
    for data in REFUSED[message]:
        assert message in refused(data), data[:100]
        if b"Q" not in data:
            assert message in refused(data, "legacy"), data[:100]


def test_kinds_of_tensors_that_are_not_read_do_no_harm_beside_the_weights(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        others = {"quantised": quantised, "meta": torch.empty(2, device="meta")}
        for name, zipped in {"zip": True, "legacy": False}.items():
            content = {"model": {"a": torch.ones(2)}, "others": others}
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    for name in CONTAINERS:
        file = read_foreign(str(tmp_path / name))
        assert torch.equal(torch.ones(2), file.state_dict()["a"])
        assert {"torch._utils._rebuild_qtensor", "torch.per_tensor_affine"} < set(file.inert)


def test_a_tensor_is_not_gone_through() -> None:
    ordered = b"ccollections\nOrderedDict\n"
    with pytest.raises(CheckpointError, match="is damaged"):
        opened(ordered + FLOATS + b"\x85R.").state_dict()


@pytest.mark.parametrize("state", [b"}" + text("__class__") + b"Ns", b"N}" + text("path") + b")s\x86"])
def test_a_pickle_sets_no_attributes(state: bytes) -> None:
    for made in (b"ctorch\nSize\n", b"ctorch\nSize\n)R", STORAGE, FLOATS):
        plain, built = (opened(made + more + b".").tree for more in (b"", state + b"b"))
        assert repr(plain) == repr(built)


def test_plain_data_comes_back_as_it_was() -> None:
    data = {"numbers": [1, -(2**70), 1.5, True, None], "text": ("ü", "\ud800"), "dict": {"a": {2: 1}}}
    others = [
        {1},
        b"\xff",
        OrderedDict(a=1),
        Counter("aab"),
        defaultdict(list, x=1),
        torch.half,
        torch.Size([2]),
    ]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        file = opened(pickle.dumps([data, others], protocol))
        assert data == file.tree[0]
        assert file.inert == ("builtins.list",)  # what the defaultdict is made with
    python_2 = b"ccollections\nOrderedDict\n](](" + text("a") + FLOATS + b"ee\x85R."
    assert ["a"] == list(opened(python_2).state_dict())


class Attributes(dict[str, int]):
    """Like Lightning's AttributeDict."""


class Thing:
    def __init__(self) -> None:
        self.name, self.self = "thing", self


class Row(list[int]):
    """Another one."""


def test_an_unknown_object_keeps_its_name_and_its_entries() -> None:
    things = [Attributes(a=1), Thing(), Row([1, 2]), Call(Thing.mro, "x"), 2j, slice(1)]
    tree = opened(pickle.dumps(things, 4)).tree
    assert all(isinstance(item, Inert) for item in tree)
    names = [f"{__name__}.{name}" for name in ("Attributes", "Thing", "Row")]
    assert names == [item.path for item in tree[:3]]
    assert tree[0].entries == {"a": 1}
    assert repr(tree[1]) == f"Inert(path='{__name__}.Thing')"
    assert ["builtins.complex", "builtins.slice"] == [item.path for item in tree[-2:]]


def test_a_name_that_is_not_printable_is_escaped_and_a_long_one_cut() -> None:
    strange = b"\x80\x04" + text("a\x1b[2J") + text("b\nc") + b"\x93."
    assert opened(strange).inert == (r"'a\x1b[2J.b\nc'",)
    assert [300] == [len(name) for name in opened(b"cx\n" + b"y" * 100_000 + b"\n.").inert]


@pytest.mark.parametrize(
    "key", [b"(K\x01" + b")" + b"\x85" * 9000 + b"t", b"\x8b\x10\x27\x00\x00" + b"\x7f" * 10_000]
)
def test_keys_of_any_kind_are_named_in_one_line(key: bytes) -> None:
    file = opened(b"}" + key + FLOATS + b"s" + text("a\nb" * 1000) + b"Ns.")
    with pytest.raises(CheckpointError, match="beside 1 tensors") as caught:
        file.state_dict()
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="names of tensors that are no text") as caught:
        opened(b"}" + key + FLOATS + b"s.").state_dict()
    assert len(str(caught.value)) < 600


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(CONTAINERS))
def test_noise_is_read_or_refused_and_nothing_else(data: bytes, container: str) -> None:
    with contextlib.suppress(CheckpointError):
        opened(data + b".", container)


INTEGERS = st.one_of(st.integers(-2, 5), st.integers(-(2**65), 2**65), st.sampled_from([2**31, 2**62, 2**63]))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_view_never_leaves_its_storage(data: st.DataObject) -> None:
    dimensions = data.draw(st.integers(0, 3))
    shape, stride = (tuple(data.draw(INTEGERS) for _ in range(dimensions)) for _ in range(2))
    view = (data.draw(INTEGERS), shape, stride, False, None)
    items = b"".join(pickle.dumps(item, 2).removeprefix(b"\x80\x02").removesuffix(b".") for item in view)
    call = REBUILD + b"(" + STORAGE + items + b"tR"
    last = view[0] + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if any(not 0 <= n < 2**63 for n in (view[0], *shape, *stride)) or not (0 in shape or last < 4):
        with pytest.raises(CheckpointError, match=r"offset, shape or stride|RuntimeError"):
            weight(call)
    elif math.prod(n for n in shape if n) < 2**40:
        if math.prod(shape) <= SPREAD:
            assert shape == tuple(weight(call).shape)
        else:
            with pytest.raises(CheckpointError, match="elements, of which the file has"):
                weight(call)


class TestContainers:
    """What ``torch.load`` would do with other files than it is meant for."""

    def test_a_tar_file_that_begins_like_an_old_file_is_not_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = contained(b"N.", "legacy")[:100].decode("latin-1")
        info = tarfile.TarInfo("x")
        head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        head[: len(start)] = start.encode("latin-1")
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        path = tmp_path / "weights.pth"
        path.write_bytes(bytes(head) + bytes(20 * 512))
        assert tarfile.is_tarfile(path)
        tried: list[object] = []
        monkeypatch.setattr(tarfile, "open", lambda *args, **_: tried.append(args))
        with pytest.raises(CheckpointError):
            read_foreign(str(path)).state_dict()
        assert [] == tried

    def test_torchscript_is_refused_and_not_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "weights.pth"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path)
        tried: list[object] = []
        monkeypatch.setattr(torch.jit, "load", lambda *args, **_: tried.append(args))
        with pytest.raises(CheckpointError, match=r"is a TorchScript archive.*: a program, not weights"):
            read_foreign(str(path))
        assert [] == tried
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, weights_only=False)
        assert 1 == len(tried)  # it would have been

    def test_an_encrypted_archive_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        data = bytearray(contained(FLOATS + b".", "zip"))
        for start in (b"PK\1\2", b"PK\3\4"):
            data[data.index(start) + (8 if start[2] == 1 else 6)] |= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is compressed or encrypted"):
            read_foreign(str(path))

    def test_a_storage_that_is_not_aligned_is_copied(self) -> None:
        for padding in range(8):
            found = weight(b"0".join([b"N"] * padding + [text("p" * padding), FLOATS]))
            assert 0 == found.data_ptr() % 16
            assert torch.equal(torch.zeros(4), found)

    def test_torch_load_has_no_part_in_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "load", None)
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
        for container in CONTAINERS:
            assert torch.equal(torch.zeros(4), weight(tensor(STORAGE), container))
