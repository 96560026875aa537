"""The pickle machine that ``torch.load`` is given for files of others: it makes data and can run nothing.

Why nothing of a pickle can run:

* A pickle gets at code by name only, and ``find_class`` imports nothing: it looks a name up in ``KNOWN``, a
  table of functions of this module and of types of numbers. Every other name gives an :class:`Inert` object.
  (torch answers ``FloatStorage`` and its like before that, with an object that holds a type of numbers.)
* Only functions of that table are called. They make dictionaries, sets, bytes and views of storages, and call
  nothing that they are given. Calling an ``Inert`` gives another one.
* Attributes are never set, and only lists, sets, dictionaries and ``Inert`` objects are filled. So no object
  of Python or torch is altered, and none of their methods run.
* Instructions are those of a list; extension codes, which bypass names, are not on it.
* References lead to storages only; references of another kind make torch look for source text and write it.
* Tensors are views checked against their storage, and a storage is no longer than what the file has for it.
* The machine is the one that :mod:`pickle` has in Python, not its twin in C: whatever a pickle asks for, it
  gets Python's own exceptions.

What remains is damage, and what wants much memory or time: ``NESTING`` and the size of the file are limits.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

NESTING = 10_000
"""Most tuples that one tuple may hold, through all levels: hashing and comparing go through them all."""


@attrs.frozen(eq=False)
class Inert:
    """Stands for an object, class or function that was not loaded.

    Attributes:
        path: Dotted name of what it stands for.
        entries: What was set in it by key (``AttributeDict`` and other dictionaries).
    """

    path: str
    entries: dict[Any, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen(eq=False)
class Storage:
    """What tensors look at.

    Attributes:
        flat: Its bytes.
        dtype: The type that its class stands for.
        crc: The CRC-32 that it should have; 0: not known.
    """

    flat: Tensor
    dtype: torch.dtype
    crc: int = 0


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        raise pickle.UnpicklingError(otherwise)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """A view of a storage; the arguments may be anything.

    ``rest`` is requires_grad, hooks, in v3 a type other than the storage's, and maybe bits.
    """
    own, rest = getattr(storage, "dtype", None), rest[2:]
    dtype, *bits = rest if rest and isinstance(rest[0], torch.dtype) else (own, *rest)
    kinds = zip((storage, dtype, shape, stride), (Storage, torch.dtype, tuple, tuple), strict=True)
    _check(all(isinstance(*pair) for pair in kinds), "a tensor without storage, type or shape")
    _check(not any(bits), "a tensor conjugated or negated lazily; save what resolve_conj() gives")
    told = f"a tensor of {dtype}, shape {shape} and stride {stride} at {offset}"
    whole_numbers = all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *stride))
    _check(whole_numbers and len(shape) <= 64, told)
    try:
        whole = torch.empty(0, dtype=dtype, device="cpu").set_(storage.flat.untyped_storage())
        return whole.as_strided(shape, stride, offset)
    except RuntimeError as error:
        raise pickle.UnpicklingError(f"{told}: {error}") from error


def _from_type(*_: Any) -> None:
    """``_rebuild_from_type_v2(function, type, arguments, state)``; the machine calls the function itself."""


def _dict(content: Any = None, *_: Any) -> dict[Any, Any]:
    """``OrderedDict`` and its like. Python 2 gave it pairs; ``defaultdict`` is given a class."""
    if isinstance(content, list) and all(type(pair) in (list, tuple) for pair in content):
        return dict(content)
    return dict(content) if isinstance(content, dict) else {}


def _size(numbers: Any) -> tuple[int, ...]:
    """``torch.Size``; of numbers only, so that no tuples hide in it."""
    fine = isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)
    _check(fine, "a size of something else than numbers")
    return tuple(numbers)


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    _check(isinstance(text, str) and encoding in ("latin1", "latin-1"), f"bytes in the encoding {encoding!r}")
    return bytes(text, "latin-1")


KNOWN: Mapping[str, Any] = {
    **{f"torch._utils._rebuild_tensor{version}": _tensor for version in ("", "_v2", "_v3")},
    **{f"torch._utils._rebuild_parameter{more}": lambda tensor, *_: tensor for more in ("", "_with_state")},
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.storage.UntypedStorage": SimpleNamespace(dtype=torch.uint8),
    "torch.Size": _size,
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "collections.defaultdict"), _dict),
    "builtins.set": lambda content: set(content if isinstance(content, list) else []),
    "_codecs.encode": _encode,
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
"""Names that a pickle may use, and what it gets for each."""


PLAIN = """
MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
BINBYTES8 EMPTY_TUPLE EMPTY_LIST LIST EMPTY_DICT DICT EMPTY_SET PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET
LONG_BINGET PROTO FRAME GLOBAL STACK_GLOBAL
"""
"""Instructions that make numbers, text and containers, or ask for a name; they are those of :mod:`pickle`."""


@attrs.frozen
class Reading:
    """A file that ``torch.load`` reads, and what is learnt of it meanwhile.

    Attributes:
        size: Its size in bytes.
        records: Records of its zip archive by name; none where it is no archive.
        inert: What stands for each name that was asked for and is not known.
        storages: Each storage, by key.
        pickles: What its pickles hold; a zip archive has one, a file of old five.
    """

    size: int
    records: dict[str, zipfile.ZipInfo] = attrs.field(factory=dict)
    inert: dict[str, Inert] = attrs.field(factory=dict)
    storages: dict[str, Storage] = attrs.field(factory=dict)
    pickles: list[Any] = attrs.field(factory=list)

    def load(self, source: Any, mapped: bool) -> Any:
        """Call ``torch.load``.

        Args:
            source: Path or open file. No TorchScript archive, which torch would run; no file with a number
                that is a tar file, which torch would unpack.
            mapped: Map the file into memory; otherwise read it.

        Raises:
            Exception: of any kind, when the file is damaged or asks for what it must not.
        """
        machine = SimpleNamespace(
            __name__=__name__,
            Unpickler=_Unpickler,
            load=lambda file, **given: _Unpickler(file, **given).load(),
        )
        options: Any = {"pickle_module": machine, "errors": "surrogateescape", "reading": self}
        return torch.load(source, map_location="cpu", weights_only=False, mmap=mapped, **options)


class _Unpickler(pickle._Unpickler):
    """Every name gives something of ``KNOWN`` or an ``Inert``; every instruction is in ``dispatch``."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Any, *, reading: Reading, **options: Any) -> None:
        super().__init__(file, **options)
        self.reading, self.promised, self.copied = reading, 0, 0
        self.held: dict[int, tuple[int, Any]] = {}

    def load(self) -> Any:
        self.reading.pickles.append(super().load())
        return self.reading.pickles[-1]

    def find_class(self, module: str, name: str, /) -> Any:
        path = f"{PYTHON_2.get(module, module)}.{name}"
        path = (path if path.isprintable() else ascii(path))[:300]
        return KNOWN[path] if path in KNOWN else self.reading.inert.setdefault(path, Inert(path))

    def _taken(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _tuple(self, items: list[Any]) -> None:
        """Make a tuple, and note how many are in it; it is kept with that, so that its id stays its own."""
        held = 1 + sum(self.held.get(id(item), (0, None))[0] for item in items)
        _check(held <= NESTING, "tuples nested without end")
        self.append(tuple(items))
        self.held[id(self.stack[-1])] = (held, self.stack[-1])

    def _call(self, function: Any, arguments: Any, *_: Any) -> None:
        """The only functions that a pickle can hold are those of ``KNOWN``."""
        _check(isinstance(function, Inert | FunctionType), f"a call of a {type(function).__name__}")
        _check(isinstance(arguments, tuple), "arguments that are no tuple")
        self.copied += sum(len(a) for a in arguments if isinstance(a, str | list | dict))
        _check(self.copied <= self.reading.size, "more content than the file has bytes")
        if function is _from_type:
            self._call(arguments[0], arguments[2])
        else:
            self.append(Inert(function.path) if isinstance(function, Inert) else function(*arguments))

    def _fill(self, items: list[Any]) -> None:
        """Elements of a list or a set; those of an ``Inert`` are dropped."""
        target = self.stack[-1]
        _check(isinstance(target, list | set | Inert), f"elements of a {type(target).__name__}")
        if not isinstance(target, Inert):
            (target.extend if isinstance(target, list) else target.update)(items)

    def _enter(self, items: list[Any]) -> None:
        """Keys and values of a dictionary."""
        target = self.stack[-1].entries if isinstance(self.stack[-1], Inert) else self.stack[-1]
        _check(isinstance(target, dict), f"entries of a {type(target).__name__}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _storage(self, pid: Any) -> None:
        """``('storage', type, key, location, count)``; old files add a view, which must be None."""
        dtype, key, count = None, "", 0
        match pid:
            case ("storage", kind, str(key), _, int(count), *view) if view in ([], [None]) and count >= 0:
                dtype = getattr(kind, "dtype", None)
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a reference to something that is no storage")
        if key not in self.reading.storages:
            nbytes = count * dtype.itemsize
            record = self.reading.records[f"data/{key}"] if self.reading.records else None
            room = record.file_size if record else self.reading.size - self.promised
            _check(nbytes <= room, f"storage {key!r} has {room} bytes, {nbytes} were promised")
            self.promised += nbytes
            untyped = self.persistent_load(pid)._untyped_storage
            if record and untyped.data_ptr() % 16:  # of an archive that others packed again
                untyped = untyped.clone()
            flat = torch.empty(0, dtype=torch.uint8, device="cpu").set_(untyped)
            crc = record.CRC if record and room == nbytes else 0
            self.reading.storages[key] = Storage(flat, dtype, crc)
        storage = self.reading.storages[key]
        same = (storage.dtype, storage.flat.numel()) == (dtype, count * dtype.itemsize)
        _check(same, f"storage {key!r} has two sizes or types")
        self.append(storage)

    dispatch: ClassVar[Any] = {
        **dict.fromkeys(
            range(256),
            lambda self: _check(False, "an instruction that is not allowed, such as an extension code"),
        ),
        **{code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, n)[0] for n in PLAIN.split())},
        pickle.TUPLE[0]: lambda self: self._tuple(self.pop_mark()),
        **{getattr(pickle, f"TUPLE{n}")[0]: lambda self, n=n: self._tuple(self._taken(n)) for n in (1, 2, 3)},
        **dict.fromkeys((pickle.REDUCE[0], pickle.NEWOBJ[0]), lambda self: self._call(*self._taken(2))),
        pickle.NEWOBJ_EX[0]: lambda self: self._call(*self._taken(3)),
        pickle.FROZENSET[0]: lambda self: self._call(
            self.find_class("builtins", "frozenset"), (self.pop_mark(),)
        ),
        pickle.BUILD[0]: lambda self: self._taken(1),
        pickle.APPEND[0]: lambda self: self._fill(self._taken(1)),
        **dict.fromkeys((pickle.APPENDS[0], pickle.ADDITEMS[0]), lambda self: self._fill(self.pop_mark())),
        pickle.SETITEM[0]: lambda self: self._enter(self._taken(2)),
        pickle.SETITEMS[0]: lambda self: self._enter(self.pop_mark()),
        pickle.BINPERSID[0]: lambda self: self._storage(self.stack.pop()),
    }
