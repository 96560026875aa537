"""Hostile and foreign pickles: nothing of theirs runs, and what they asked for is named."""

import contextlib
import copyreg
import pickle
import shlex
import struct
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.files.foreign import DAMAGE, KNOWN, NESTING, Inert, Storage, scan, unpickle


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SH = b"](" + text("/bin/sh") + text("-c") + b"%se"  # ["/bin/sh", "-c", command]
SYSTEM, POPEN, GETATTR = b"cposix\nsystem\n", b"csubprocess\nPopen\n", b"cbuiltins\ngetattr\n"
IMPORT = b"cimportlib\nimport_module\n" + text("os") + b"\x85R" + text("system")
NAMESPACE = b"ctypes\nSimpleNamespace\n)R}"

BOMBS = {
    "GLOBAL REDUCE": (SYSTEM + b"%s\x85R.", ["posix.system"]),
    "STACK_GLOBAL": (b"\x80\x04" + text("posix") + text("system") + b"\x93%s\x85R.", ["posix.system"]),
    "Python 2": (b"c__builtin__\neval\n" + text("1") + b"\x85R0" + SYSTEM + b"%s\x85R.", ["builtins.eval"]),
    "a dotted name": (
        b"\x80\x04" + text("builtins") + text("str.join") + b"\x930" + SYSTEM + b"%s\x85R.",
        ["builtins.str.join"],
    ),
    "INST": (b"(%siposix\nsystem\n.", ["posix.system"]),
    "OBJ": (b"(" + SYSTEM + b"%so.", ["posix.system"]),
    "NEWOBJ": (b"\x80\x02" + POPEN + SH + b"\x85\x810" + POPEN + SH + b"\x85R.", ["subprocess.Popen"]),
    "NEWOBJ_EX": (b"\x80\x04" + POPEN + b")}\x920" + SYSTEM + b"%s\x85R.", ["subprocess.Popen"]),
    "BUILD": (NAMESPACE + text("__setstate__") + SYSTEM + b"sb%sb.", ["types.SimpleNamespace"]),
    "APPENDS": (
        NAMESPACE + text("extend") + b"cfunctools\npartial\n" + SYSTEM + b"%s\x86Rsb(Ne0N.",
        ["types.SimpleNamespace", "functools.partial"],
    ),
    "importlib": (GETATTR + IMPORT + b"\x86R%s\x85R.", ["builtins.getattr", "importlib.import_module"]),
}
"""By the instruction that does the harm: a pickle with a place for a shell command, and names it asks for."""

WITH_SYSTEM = ("Python 2", "a dotted name", "NEWOBJ_EX", "BUILD", "APPENDS")
HARMFUL = [name for name in BOMBS if name not in ("NEWOBJ", "NEWOBJ_EX", "APPENDS")]
"""Those that a plain unpickler finishes; the others also feed the stubs what the real class would refuse."""


def armed(name: str, marker: Path) -> bytes:
    return BOMBS[name][0].replace(b"%s", text(f"touch {shlex.quote(str(marker))}"))


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_pickle_does_nothing_and_is_named(name: str, tmp_path: Path) -> None:
    _, inert = unpickle(armed(name, tmp_path / "marker"))
    assert [*BOMBS[name][1], *(["posix.system"] if name in WITH_SYSTEM else [])] == list(inert)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", HARMFUL)
def test_the_same_pickle_does_harm_to_a_plain_unpickler(name: str, tmp_path: Path) -> None:
    pickle.loads(armed(name, tmp_path / "marker"))
    assert (tmp_path / "marker").exists()


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
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
    tree, inert = unpickle(pickle.dumps(calls, protocol))
    assert [*tmp_path.iterdir()] == []
    assert all(isinstance(item, Inert) for item in tree)
    wanted = {"builtins.eval", "builtins.exec", "builtins.setattr", "builtins.__import__"}
    wanted |= {"torch.serialization.load", "torch.storage._load_from_bytes"}
    assert wanted <= set(inert)
    assert {"_io.open", "io.open"} & set(inert)


def test_extension_codes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    copyreg.add_extension("posix", "system", 77)
    try:
        with pytest.raises(pickle.UnpicklingError, match="extension code 77"):
            unpickle(b"\x80\x02\x82\x4d" + text("exit 1") + b"\x85R.")
    finally:
        copyreg.remove_extension("posix", "system", 77)


@pytest.mark.parametrize(
    "pid",
    [
        ("storage", Call(torch.device, "cpu"), "0", "cpu", 1),
        ("storage", torch.FloatStorage, 0, "cpu", 1),
        ("storage", torch.FloatStorage, "0", "cpu", -1),
        ("storage", torch.FloatStorage, "0", "cpu", 2**63),
        ("storage", torch.FloatStorage, "0", "cpu", 1, ("1", 0, 1)),
        ("module", Call(eval, "1")),
        ("storage",),
        "storage",
        None,
    ],
)
def test_only_storages_are_referred_to(pid: object) -> None:
    data = pickle.dumps(pid, 2).removesuffix(b".") + b"Q."
    with pytest.raises(pickle.UnpicklingError, match="no storage"):
        unpickle(data, lambda key, count, size: Storage(Path("x"), key, count * size, {}))


def test_a_storage_is_referred_to_by_type_and_key() -> None:
    data = pickle.dumps(("storage", torch.HalfStorage, "7", "cuda:3", 5), 2).removesuffix(b".") + b"Q."
    found = unpickle(data, lambda key, count, size: Storage(Path("x"), key, count * size, {})).tree
    assert (torch.float16, "7", 10) == (found.dtype, found.storage.key, found.storage.nbytes)
    with pytest.raises(pickle.UnpicklingError, match="no storage"):
        unpickle(data)


@pytest.mark.parametrize(
    "target",
    ["ctorch._utils\n_rebuild_tensor_v2\n", "ctorch\nFloatStorage\n", "ctorch\nSize\n", "ctorch\nfloat32\n"],
)
@pytest.mark.parametrize("state", [b"}" + text("function") + b"Ns", b"N}" + text("function") + b"Ns\x86"])
def test_what_a_pickle_is_given_cannot_be_altered_by_it(target: str, state: bytes) -> None:
    with pytest.raises(DAMAGE):
        unpickle(target.encode() + state + b"b.")
    assert not hasattr(torch.float32, "function")
    assert callable(KNOWN["torch._utils._rebuild_tensor_v2"].function)


def test_a_class_is_not_altered_either() -> None:
    with pytest.raises(DAMAGE):
        unpickle(SYSTEM + b"}" + text("append") + b"Nsb.")


def test_plain_data_comes_back_as_it_was() -> None:
    data = {
        "numbers": [1, -(2**70), 1.5, 2j, True, None],
        "text": ("ü", b"\x00\xff"),
        "sets": [{1, 2}, frozenset({3})],
        "dicts": [OrderedDict(a=1), Counter("aab"), defaultdict(list, x=1)],
        "slice": slice(1, 2, None),
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        tree, inert = unpickle(pickle.dumps(data, protocol))
        assert data == tree
        assert inert == ("builtins.list",)  # what the defaultdict is made with


class Attributes(dict):
    """Like Lightning's AttributeDict."""


class Thing:
    def __init__(self):
        self.name, self.self = "thing", self


class Row(list):
    pass


class New:
    def __new__(cls, a=None, *, b=None):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (1,), {"b": 2}


def test_an_unknown_object_keeps_what_it_was_given() -> None:
    things = [Attributes(a=1), Thing(), Row([1, 2]), New(), Call(Thing.mro, "x"), Thing]
    attributes, thing, row, new, call, kind = unpickle(pickle.dumps(things, 4)).tree
    assert attributes.entries == {"a": 1}
    assert thing.state == {"name": "thing", "self": thing}
    assert row.elements == [1, 2]
    assert new.arguments == ((1,), {"b": 2})
    assert isinstance(thing, kind)
    assert repr(thing) == f"<inert {__name__}.Thing>"
    assert isinstance(call, Inert)


def test_a_name_that_is_not_printable_is_escaped() -> None:
    _, inert = unpickle(b"\x80\x04" + text("a\x1b[2J") + text("b\nc") + b"\x93.")
    assert inert == (r"'a\x1b[2J.b\nc'",)


DEEP = {
    "a tuple within a tuple, and so on": b"}" + b")" + b"\x85" * 1_000_000 + b"Ns.",
    "through a call": b"}" + b"cbuiltins\nslice\n" * 20_000 + b")" + b"\x85R" * 20_000 + b"Ns.",
    "a tuple of the same tuple twice, and so on": b"})" + b"2\x86" * 60 + b"Ns.",
    "through the memo": b"})" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "hidden in a size": b"}ctorch\nSize\n])a\x85RNs.",
    "hidden in arguments": (
        b"}ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\nN])aNtRNs."
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_bomb_of_nested_tuples_is_refused_before_it_is_hashed(name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"nested without end|than numbers|no tuple"):
        unpickle(DEEP[name])


def test_nesting_that_does_no_harm_is_read() -> None:
    flat = tuple((i, i) for i in range(NESTING - 1))
    assert flat == unpickle(pickle.dumps(flat)).tree
    tree = unpickle(b"]" * 20_000 + b"a" * 19_999 + b".").tree
    assert isinstance(tree, list)
    with pytest.raises(pickle.UnpicklingError):
        unpickle(pickle.dumps((*flat, (1, 1))))


def test_a_far_place_in_the_memo_takes_no_memory() -> None:
    with pytest.raises(pickle.UnpicklingError, match="place 4294967295 of the memo"):
        unpickle(b"Nr\xff\xff\xff\xff.")


VALID = pickle.dumps([OrderedDict(a=(1, "b")), {3: [4.5, b"c"]}, Thing(), torch.Size([1])], 2)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(st.integers(0, len(VALID) - 1), st.binary(max_size=4))
def test_a_damaged_pickle_is_read_or_refused_and_nothing_else(place: int, data: bytes) -> None:
    with contextlib.suppress(DAMAGE):
        unpickle(VALID[:place] + data + VALID[place + len(data) :])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(st.binary(max_size=60))
def test_noise_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(DAMAGE):
        unpickle(data + b".")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_scan_stops_behind_the_pickle(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(
        [(1, (2, 3)), {"a": {1}}, Thing(), New(), b"x" * 300, bytearray(b"y")],
        protocol if protocol > 1 else 2,
    )
    (tmp_path / "file").write_bytes(data + b"rest")
    with open(tmp_path / "file", "rb") as file:
        scan(file)
        assert file.read() == b"rest"
