"""A pickle machine for files of others: it makes plain data and inert objects, and nothing else.

It is the one that :mod:`pickle` has in Python. Why nothing of a pickle can run on it:

* A pickle gets at code by name only, and every name gives an :class:`Inert` object; nothing is imported.
  Extension codes, which bypass names, are refused.
* A call is written down as one more ``Inert`` object. Nothing that the machine makes can be called.
* It can fill lists, sets, dictionaries and ``Inert`` objects, and set no attributes.
* Tensors are described, not built; :func:`built` makes them later, of arguments that it checks.

What remains is damage, and what wants much memory or time. Nothing is copied or made longer than the file, as
the machine's twin in C would; nothing that is nested is gone through: tuples are hashed by identity.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from dimo_core import limits

NAMED_ALIKE = (
    *("Short", "Int", "Long", "Half", "BFloat16", "Float", "Double", "Bool"),
    *("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4"),
)

DTYPES: dict[str, torch.dtype] = {
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{f"torch.{name}Storage": getattr(torch, name.lower()) for name in NAMED_ALIKE},
    **{"torch.ByteStorage": torch.uint8, "torch.CharStorage": torch.int8},
    **{"torch.ComplexFloatStorage": torch.cfloat, "torch.ComplexDoubleStorage": torch.cdouble},
    "torch.storage.UntypedStorage": torch.uint8,
}
"""What the names of types and of classes of storages stand for."""

PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
TENSORS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
OF_TYPE = "torch._tensor._rebuild_from_type_v2"

KNOWN = {
    **dict.fromkeys((*TENSORS, *PARAMETERS, OF_TYPE), "Tensor"),
    **dict.fromkeys(DTYPES, "dtype"),
    **{f"collections.{name}": name for name in ("OrderedDict", "Counter", "defaultdict")},
    **{"torch.Size": "Size", "builtins.set": "set", "_codecs.encode": "bytes"},
}
"""Names that are understood, or are plain data of Python; and what they make."""


@attrs.frozen(eq=False)
class Inert:
    """Stands for an object, class or function that was not loaded.

    Attributes:
        path: Dotted name of what it stands for, or of what made it.
        arguments: What it was made with.
        entries: What was set in it by key (``OrderedDict`` and other dictionaries).
    """

    path: str
    arguments: tuple[Any, ...] = attrs.field(default=(), repr=False)
    entries: dict[Any, Any] = attrs.field(factory=dict, repr=False)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Kept."""
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Dropped."""


@attrs.define(eq=False)
class Storage:
    """What tensors look at.

    Attributes:
        dtype: The type that its class stands for.
        count: Number of elements that the pickle promises.
        flat: Its bytes, once they are found.
        crc: The CRC-32 that they should have; 0: not known.
    """

    dtype: torch.dtype
    count: int
    flat: Tensor = attrs.field(factory=lambda: torch.empty(0, dtype=torch.uint8))
    crc: int = 0


def built(node: Any) -> Any:
    """The tensor that an object describes; where it describes something else, that.

    Raises:
        Exception: of any kind, where it leaves its storage or has arguments of another kind.
    """
    while isinstance(node, Inert) and KNOWN.get(node.path) == "Tensor":
        match node.arguments:
            case (Storage() as storage, offset, shape, stride, *rest):
                return _view(storage, offset, shape, stride, rest[2:])
            case (Inert() as function, _, tuple(arguments), *_) if node.path == OF_TYPE:
                node = Inert(function.path, arguments)
            case (inner, *_) if node.path in PARAMETERS:
                node = inner
            case _:
                raise ValueError("a tensor without storage, shape or stride")
    return node


def _view(storage: Storage, offset: Any, shape: Any, stride: Any, rest: list[Any]) -> Tensor:
    """A view of a storage; ``rest`` is in v3 a type other than the storage's, and maybe bits."""
    dtype = DTYPES[rest.pop(0).path] if rest and isinstance(rest[0], Inert) else storage.dtype
    shape = shape.arguments[0] if isinstance(shape, Inert) else shape
    if any(rest):
        raise ValueError("a tensor conjugated or negated lazily; save what resolve_conj() gives")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *stride)) or len(shape) > 64:
        raise ValueError("a tensor whose offset, shape or stride is none")
    flat, count = storage.flat.view(dtype), math.prod(shape)
    tensor = flat.as_strided(shape, stride, offset)  # which is a view, and takes no memory yet
    if count > max(len(flat), limits.SPREAD):
        raise ValueError(f"a tensor of {count:,} elements, of which the file has {len(flat):,}")
    return tensor


REFUSED = ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER")
"""Instructions that bypass names, call a class by themselves, or take memory before they read."""

HashedByIdentity: Any = type("tuple", (tuple,), {"__hash__": object.__hash__})


class Machine(pickle._Unpickler):
    """Reads one pickle.

    Args:
        file: Where it begins; a read gives no more than is there.
    """

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.asked: dict[str, Inert] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """An inert object for any name."""
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        path = (path if path.isprintable() else ascii(path))[:300]
        return self.asked.setdefault(path, Inert(path))

    def persistent_load(self, pid: Any) -> Storage:
        """``('storage', class, key, location, count)``; old files add a view, which must be None.

        Raises:
            pickle.UnpicklingError: for other references, and a storage that is another than before.
        """
        match pid:
            case ("storage", Inert(path=kind), str(key), _, int(count), *view) if (
                kind in DTYPES and view in ([], [None]) and count >= 0
            ):
                storage = self.storages.setdefault(key, Storage(DTYPES[kind], count))
                if (storage.dtype, storage.count) == (DTYPES[kind], count):
                    return storage
                raise pickle.UnpicklingError(f"storage {key!r} has two sizes or types")
        raise pickle.UnpicklingError("a reference to something that is no storage")

    def _tuple(self, items: list[Any]) -> None:
        self.append(HashedByIdentity(items))

    def _call(self, function: Any, arguments: Any, *_: Any) -> None:
        """The arguments are not copied: they may be many, and the call one of many."""
        if not isinstance(function, Inert):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("arguments that are no tuple")
        self.append(Inert(function.path, arguments))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an instruction that is not allowed, such as an extension code")

    def _taken(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((getattr(pickle, name)[0] for name in REFUSED), _refuse),
        **dict.fromkeys((pickle.TUPLE[0], pickle.FROZENSET[0]), lambda self: self._tuple(self.pop_mark())),
        **{getattr(pickle, f"TUPLE{n}")[0]: lambda self, n=n: self._tuple(self._taken(n)) for n in (1, 2, 3)},
        **dict.fromkeys((pickle.REDUCE[0], pickle.NEWOBJ[0]), lambda self: self._call(*self._taken(2))),
        pickle.NEWOBJ_EX[0]: lambda self: self._call(*self._taken(3)),
        pickle.BUILD[0]: lambda self: self._taken(1),
    }
