"""Pickles of torch files, read as data: no class or function of theirs is imported, called or built.

A pickle is a program for a small stack machine. It does harm through the objects that it asks for by name, so
this reader hands out names of its own making only: its own versions of the dozen functions by which torch
describes tensors, and for every other name a stub, :class:`Inert`, that accepts whatever is done to it and
does nothing.

Which functions torch's pickles name was taken from ``torch/_utils.py`` and
``torch/_weights_only_unpickler.py`` (torch 2.13).
"""

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch

from dimo_core.pickle_scan import scan
from dimo_core.stored_tensor import Sealed, Storage, StoredTensor, TypedStorage, view

PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a malformed pickle makes the unpickler raise."""


class Inert:
    """Stands for an object, class or function that was not loaded. It keeps what it is given.

    Attributes:
        path: Dotted name of what it stands for.
        arguments: Positional and keyword arguments it was made or called with.
        state: State given to it (for plain objects: their attributes).
        elements: What was appended to it.
        entries: What was set in it by key (``AttributeDict`` and other dictionaries).
    """

    path: ClassVar[str] = ""
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    state: Any
    elements: list[Any]
    entries: dict[Any, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """An instance; it does not matter by which instruction it is made."""
        self = super().__new__(cls)
        self.arguments, self.state, self.elements, self.entries = (args, kwargs), None, [], {}
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        """Another stub of the same name."""
        return type(self)(*args, **kwargs)

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep the entry."""
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Keep the value."""
        self.elements.append(value)

    add = append

    def __repr__(self) -> str:
        """Its name."""
        return f"<inert {self.path}>"


class PlainDict(dict[Any, Any]):
    """A dictionary for ``OrderedDict`` and its like; attributes set on it (``_metadata``) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


@attrs.frozen(eq=False, getstate_setstate=False)
class Known(Sealed):
    """One of our own functions, as a pickle sees it: it can be called and not altered."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function(*args)


@attrs.frozen(eq=False, getstate_setstate=False)
class StorageType(Sealed):
    """A class such as ``torch.FloatStorage``."""

    dtype: torch.dtype


class Unpickled(NamedTuple):
    """What a pickle holds, and the names that stayed inert."""

    tree: Any
    inert: tuple[str, ...]


def unpickle(data: bytes | bytearray, storage: Callable[[str, int, int], Storage] | None = None) -> Unpickled:
    """Read a pickle as data.

    Args:
        data: One pickle, from its first to its last instruction.
        storage: Gives the storage of a name, number of elements and bytes per element.

    Raises:
        Exception: one of ``DAMAGE``, when the pickle is malformed or refers to what it must not.
    """
    scan(io.BytesIO(data))
    reader = _Unpickler(data, storage)
    tree = reader.load()
    return Unpickled(tree, tuple(path for path, stub in reader.names.items() if isinstance(stub, type)))


class _Unpickler(pickle.Unpickler):
    """Resolves every name to one of our own objects."""

    def __init__(self, data: bytes | bytearray, storage: Callable[[str, int, int], Storage] | None) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self.storage = storage
        self.names: dict[str, Any] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        path = f"{PYTHON_2.get(module, module)}.{name}"
        path = path if path.isprintable() else ascii(path)
        if path not in self.names:
            self.names[path] = KNOWN[path] if path in KNOWN else type("Inert", (Inert,), {"path": path})
        return self.names[path]

    def persistent_load(self, pid: Any, /) -> TypedStorage:
        """``('storage', type, key, location, number of elements)``; old files add a view, which must be
        None."""
        match pid:
            case ("storage", StorageType(dtype=dtype), str(key), _, int(count), *old) if (
                self.storage and 0 <= count < 2**63 and old in ([], [None])
            ):
                return TypedStorage(self.storage(key, count, dtype.itemsize), dtype)
        raise pickle.UnpicklingError("a reference to something that is no storage")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not isinstance(storage, TypedStorage):
        raise pickle.UnpicklingError("a tensor without storage")
    return view(storage.storage, storage.dtype, offset, shape, stride)


def _rebuild_tensor_v2(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    """``rest`` is requires_grad, hooks and maybe bits (lazily conjugated or negated)."""
    if any(rest[2:]):
        raise pickle.UnpicklingError("a tensor conjugated or negated lazily; save what resolve_conj() gives")
    return _rebuild_tensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    """``rest`` is requires_grad, hooks, dtype and maybe bits; the storage is one of bytes."""
    grad, hooks, dtype, *bits = rest
    plain = _rebuild_tensor_v2(storage, 0, (0,), (1,), grad, hooks, *bits)
    return view(plain.storage, dtype, offset, shape, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass or with attributes; only the tensor is kept. A call, as any other instruction
    makes."""
    if not isinstance(arguments, tuple):  # a list would hide nesting from the scan
        raise pickle.UnpicklingError("arguments that are no tuple")
    return function(*arguments)


def _size(numbers: Any) -> tuple[int, ...]:
    """``torch.Size``; of numbers only, so that :func:`~dimo_core.pickle_scan.scan` sees all nesting."""
    if not all(isinstance(number, int) for number in numbers):
        raise pickle.UnpicklingError("a size of something else than numbers")
    return tuple(numbers)


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}

KNOWN: Mapping[str, Any] = {
    **{
        f"torch._utils.{f.__name__}": Known(f)
        for f in (_rebuild_tensor, _rebuild_tensor_v2, _rebuild_tensor_v3)
    },
    "torch._utils._rebuild_parameter": Known(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Known(_rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": Known(_rebuild_from_type),
    "torch.Size": Known(_size),
    "collections.OrderedDict": Known(PlainDict),
    "collections.Counter": Known(PlainDict),
    "collections.defaultdict": Known(lambda factory=None: PlainDict()),
    "builtins.set": Known(set),
    "builtins.frozenset": Known(frozenset),
    "builtins.complex": Known(complex),
    "builtins.slice": Known(slice),
    "_codecs.encode": Known(_encode),
    "torch.storage.UntypedStorage": StorageType(torch.uint8),
    **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
"""Names that a pickle may use, and what it gets for each: sealed objects of ours and plain types."""
