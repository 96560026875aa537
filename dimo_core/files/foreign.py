"""Weight files written by others, read without executing anything in them.

Formats are told by content, never by name:

* safetensors (its README describes the format);
* ``torch.save`` in the zip container, torch 1.6 and later: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``;
* ``torch.save`` in the container before that.

Pickles are read as data (:mod:`dimo_core.files.foreign`): classes that are not plain containers or tensors
become :class:`~dimo_core.files.foreign.Inert` stubs, so that a Lightning checkpoint needs no Lightning, and a
hostile file does nothing. Tensors stay in the file until they are asked for (:mod:`dimo_core.files.foreign`).
"""

import io
import math
import pickle
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import attrs
import safetensors.torch
import torch
from loguru import logger
from safetensors import SafetensorError
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import file_sha256, local_copy


class Sealed:
    """What a pickle may hold and call, but not change: its instruction BUILD is refused."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"the state of a {type(self).__name__} cannot be set")


@attrs.frozen(eq=False, getstate_setstate=False)
class Storage(Sealed):
    """The bytes that one or several tensors look at.

    Attributes:
        path: The file.
        key: Name of the storage in it.
        nbytes: Size in bytes.
        starts: Position of the bytes in the file, by name of the storage.
        crc: CRC-32 of the bytes; 0: not known (torch can leave it out).
    """

    path: Path
    key: str
    nbytes: int
    starts: Mapping[str, int] = attrs.field(repr=False)
    crc: int = 0

    def read(self) -> bytearray:
        """The bytes, from the file.

        Raises:
            CheckpointError: the file ends too early, or its bytes have changed.
        """
        with self.path.open("rb") as file:
            start = self.starts.get(self.key)
            if start is None or start + self.nbytes > file.seek(0, 2):
                raise CheckpointError(f"{self.path} is damaged: it ends within storage {self.key!r}.")
            data = bytearray(self.nbytes)
            file.seek(start)
            file.readinto(data)
        if self.crc and zlib.crc32(data) != self.crc:
            raise CheckpointError(f"{self.path} is damaged: the checksum of storage {self.key!r} differs.")
        return data


@attrs.frozen(eq=False, getstate_setstate=False)
class TypedStorage(Sealed):
    """A storage with the type of its elements, as pickles name it.

    Attributes:
        storage: The bytes.
        dtype: Type of an element.
    """

    storage: Storage
    dtype: torch.dtype


@attrs.frozen(eq=False, getstate_setstate=False)
class StoredTensor(Sealed):
    """A strided view into a storage; made by :func:`view` only, which checks it.

    Attributes:
        storage: Where the elements are.
        dtype: Their type.
        offset: Index of the first element.
        shape: Shape.
        stride: Steps between neighbours, in elements.
    """

    storage: Storage = attrs.field(repr=False)
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self, read: dict[Storage, Tensor] | None = None) -> Tensor:
        """The tensor, on the CPU, without gradient.

        Args:
            read: Storages read so far; tensors loaded with the same dictionary share memory as they did when
                they were saved.

        Raises:
            CheckpointError: the file is damaged, or this torch cannot hold the type.
        """
        read = {} if read is None else read
        if self.storage not in read:
            data = self.storage.read()
            read[self.storage] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
        try:
            whole = self.storage.nbytes // self.dtype.itemsize * self.dtype.itemsize
            elements = read[self.storage][:whole].view(self.dtype)
            return elements.as_strided(self.shape, self.stride, self.offset if math.prod(self.shape) else 0)
        except RuntimeError as error:
            raise CheckpointError(f"{self.storage.path}: a tensor of {self.dtype}: {error}") from error


def view(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    """A checked view; the arguments come from a pickle and may be anything.

    Raises:
        UnpicklingError: they are no view, or one that leaves its storage.
    """
    whole = isinstance(shape, tuple) and isinstance(stride, tuple) and isinstance(offset, int)
    if not (whole and isinstance(storage, Storage) and isinstance(dtype, torch.dtype)):
        raise pickle.UnpicklingError("a tensor without storage, type or shape")
    numbers = (offset, *shape, *stride)
    if (
        len(shape) != len(stride)
        or len(shape) > 64
        or any(not isinstance(n, int) or not 0 <= n < 2**63 for n in numbers)
    ):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} and stride {stride} at {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    inside = (last + 1) * dtype.itemsize <= storage.nbytes or 0 in shape
    if not inside or math.prod(shape) * dtype.itemsize >= 2**63:
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(shape)} and stride {list(stride)} at {offset} leaves its storage of "
            f"{storage.nbytes} bytes"
        )
    return StoredTensor(storage, dtype, offset, tuple(shape), tuple(stride))


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
    """``torch.Size``; of numbers only, so that :func:`~dimo_core.files.foreign.scan` sees all nesting."""
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


NESTING = 10_000
"""Most tuples that one tuple may hold, through all levels; hashing recurses over them in C, unchecked."""


def scan(file: BytesIO | BufferedReader) -> None:
    """Read over one pickle, and refuse what would harm the unpickler itself.

    These are extension codes, which bypass the look-up by name; places in the memo far beyond the first free
    one, which take memory; and tuples in tuples without end, whose hash overflows the C stack or never ends.
    For the latter the stack is simulated with, for each object, the number of tuples in it.

    Raises:
        UnpicklingError: one of these was found.
        ValueError: the file ends too early, or is no pickle.
        IndexError: an instruction takes more from the stack than there is.
        KeyError: an instruction refers to nothing.
    """
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int | None] = {}
    argument: Any
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if name.startswith("EXT"):
            raise pickle.UnpicklingError(f"extension code {argument}, which is not allowed")
        if name == "MEMOIZE" or name.endswith("PUT"):
            place = len(memo) if argument is None else int(argument)
            if place > count:
                raise pickle.UnpicklingError(f"place {place} of the memo")
            memo[place] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            taken = _take(stack, code)
            nested = sum(taken)
            if name.startswith("TUPLE"):
                nested += 1
            elif name not in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"):
                nested = 0
            if nested > NESTING:
                raise pickle.UnpicklingError("tuples nested without end")
            stack.extend([nested] * len(code.stack_after))


def _take(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """Remove what an instruction takes."""
    before = code.stack_before
    taken: list[int | None] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    return [nested or 0 for nested in taken]


ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the containers; the second is a pickle of the number 0x1950a86a20f9469cfc6c."""

RESAVE = "Where it can be loaded: torch.save(model.state_dict(), 'weights.pth')."


def read_torch(path: Path) -> Unpickled:
    """Read a file of ``torch.save``; no tensor is read yet.

    Raises:
        CheckpointError: it is damaged, of another kind (TorchScript), or of the other byte order.
    """
    with path.open("rb") as file:
        legacy = file.read(len(LEGACY)) == LEGACY
    try:
        return _read_legacy(path) if legacy else _read_zip(path)
    except (*DAMAGE, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f"{path} is damaged, or no file of torch.save: {type(error).__name__}: {error}. "
            "Nothing of it was executed."
        ) from error


def _read_zip(path: Path) -> Unpickled:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {record.filename: record for record in archive.infolist()}
        folder = _folder(path, records)
        if sum(record.file_size for record in records.values()) > path.stat().st_size:
            raise ValueError("its records overlap, or are compressed")
        starts: dict[str, int] = {}
        storages: dict[str, Storage] = {}

        def stored(name: str) -> Storage:
            if name not in storages:
                record = records[name]
                if record.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name!r} is compressed")
                starts[name] = _start(file, record)
                storages[name] = Storage(path, name, record.file_size, starts, record.CRC)
            return storages[name]

        def storage(key: str, count: int, itemsize: int) -> Storage:
            found = stored(f"{folder}/data/{key}")
            if count * itemsize > found.nbytes:
                raise ValueError(
                    f"storage {key!r} has {found.nbytes} bytes, {count * itemsize} were promised"
                )
            return found

        if (order := f"{folder}/byteorder") in records:
            _check_order(path, stored(order).read() == b"little")
        return unpickle(stored(f"{folder}/data.pkl").read(), storage)


def _folder(path: Path, records: dict[str, zipfile.ZipInfo]) -> str:
    """The folder in the archive that holds everything."""
    folders = [name.removesuffix("/data.pkl") for name in records if name.count("/") == 1]
    folders = [folder for folder in folders if f"{folder}/data.pkl" in records]
    if not folders:
        raise CheckpointError(
            f"{path} is a zip archive, but not one of torch.save: it has no data.pkl. {RESAVE}"
        )
    if f"{folders[0]}/constants.pkl" in records:
        raise CheckpointError(
            f"{path} is a TorchScript archive: a program, not weights. "
            "Where you trust it: torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    return folders[0]


def _start(file: BufferedReader, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin: behind its local header, whose length only it knows."""
    file.seek(record.header_offset)
    header = file.read(30)
    if header[:4] != ZIP:
        raise ValueError(f"no record at {record.header_offset}")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(record.header_offset + 30 + name + extra)


def _check_order(path: Path, little: bool) -> None:
    if little != (sys.byteorder == "little"):
        raise CheckpointError(f"{path} was written on a machine with the other byte order. {RESAVE}")


def _read_legacy(path: Path) -> Unpickled:
    starts: dict[str, int] = {}
    storages: dict[str, tuple[Storage, int]] = {}

    def storage(key: str, count: int, itemsize: int) -> Storage:
        found, count_before = storages.setdefault(key, (Storage(path, key, count * itemsize, starts), count))
        if count_before != count or found.nbytes != count * itemsize:
            raise ValueError(f"storage {key!r} has two sizes")
        return found

    with path.open("rb") as file:
        pickles = [_next_pickle(file) for _ in range(5)]
        _, version, machine = (unpickle(data).tree for data in pickles[:3])
        if version != 1001:
            raise ValueError(f"version {version!r}")
        _check_order(path, machine["little_endian"])
        result = unpickle(pickles[3], storage)
        for key in unpickle(pickles[4]).tree:
            (count,) = struct.unpack("<q", file.read(8))
            found, promised = storages[key]
            if count != promised:
                raise ValueError(f"storage {key!r} has {count} elements, {promised} were promised")
            starts[key] = file.tell()
            file.seek(found.nbytes, 1)
    return result


def _next_pickle(file: BufferedReader) -> bytes:
    """The bytes of the pickle that begins here."""
    start = file.tell()
    scan(file)
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


WRAPPERS = ("model_state_dict", "state_dict", "model", "module", "network", "net", "weights")
"""Keys under which trainers put the weights, in the order in which they are looked for."""

PREFIXES = ("module.", "_orig_mod.")
"""What ``DistributedDataParallel`` and ``torch.compile`` put before every name."""

STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself (git lfs pull)",
    b"<": "a web page; the address wants a login, or another link leads to the file",
    b"\x80": f"a pickle, but not one of torch.save. {RESAVE}",
}
"""Other files that come by such names, by their first bytes."""


@attrs.frozen(eq=False, slots=False)
class ForeignFile:
    """What a foreign file holds.

    Attributes:
        source: Path or URL it was read from.
        path: The file, or its local copy.
        tree: Its content: dicts, lists, numbers, text; tensors as
            :class:`~dimo_core.files.foreign.StoredTensor` (from safetensors: as tensors); objects of other
            classes as :class:`~dimo_core.files.foreign.Inert`.
        inert: Dotted names of the classes and functions that it asked for and did not get.
    """

    source: str
    path: Path
    tree: Any
    inert: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Digest of the file."""
        return file_sha256(self.path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of the weights; none of them is read.

        Raises:
            CheckpointError: as ``state_dict``.
        """
        return {name: tuple(tensor.shape) for name, tensor in self._named().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights in it, by name.

        They are the state dict under the first of ``WRAPPERS`` that is there, or else the file itself. A
        wrapper may hold another one. ``module.`` and ``_orig_mod.`` are taken off where every name begins
        so. Tensors are on the CPU, and share memory where they did when they were saved; only they are read
        from the file.

        Raises:
            CheckpointError: there is none, something in it is no tensor, or the file is damaged.
        """
        read: dict[Any, Tensor] = {}
        return {
            name: tensor.load(read) if isinstance(tensor, StoredTensor) else tensor
            for name, tensor in self._named().items()
        }

    def _named(self) -> dict[str, StoredTensor | Tensor]:
        place, found = _weights(self.tree)
        if found is None:
            raise CheckpointError(f"{self.source} holds no weights. {_description(self.tree)}")
        named = {key: value for key, value in found.items() if isinstance(value, StoredTensor | Tensor)}
        if others := [f"{key!r} ({_kind(value)})" for key, value in found.items() if key not in named]:
            raise CheckpointError(
                f"{self.source}: beside {len(named)} tensors {place or 'it'} holds what is none: "
                f"{_listed(others)}. {RESAVE}"
            )
        if others := [repr(key) for key in named if not isinstance(key, str)]:
            raise CheckpointError(f"{self.source}: names of tensors that are no text: {_listed(others)}")
        logger.debug("{}: {} tensors from {}", self.source, len(named), place or "the top level")
        while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in named)), ""):
            named = {key.removeprefix(prefix): value for key, value in named.items()}
        return named


def read_foreign(url: str) -> ForeignFile:
    """Read a weight file of somebody else; nothing in it is executed, and nothing imported for it.

    Args:
        url: Path or fsspec URL; remote files go through the cache (``files.cache.local_copy``).

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or of a format that is not read.
    """
    path = local_copy(url)
    with path.open("rb") as file:
        head = file.read(32)
    inert: tuple[str, ...] = ()
    if head.startswith((ZIP, LEGACY)):
        tree, inert = read_torch(path)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size:
        tree = _read_safetensors(path)
    else:
        kind = next((text for start, text in STRANGERS.items() if head.lstrip().startswith(start)), "")
        raise CheckpointError(
            f"{url} is neither safetensors nor a file of torch.save. "
            + (f"It looks like {kind}" if kind else f"It begins with {head[:16]!r}.")
        )
    if inert:
        logger.info("{}: its classes and functions were not loaded: {}", url, _listed(list(inert)))
    return ForeignFile(source=url, path=path, tree=tree, inert=inert)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}") from error


def _entries(node: Any) -> Mapping[Any, Any] | None:
    """A dictionary, also one of a class that was not loaded."""
    if isinstance(node, Inert):
        return node.entries or None
    return node if isinstance(node, Mapping) else None


def _weights(tree: Any) -> tuple[str, Mapping[Any, Any] | None]:
    """Where in the tree the weights are, and they; None: there are none."""
    place = ""
    for _ in range(4):  # a hostile tree may contain itself
        entries = _entries(tree) or {}
        inner = next((key for key in WRAPPERS if _entries(entries.get(key))), None)
        if inner is None:
            break
        place, tree = f"{place}.{inner}".lstrip("."), entries[inner]
    found = _entries(tree) or {}
    return place, found if any(isinstance(value, StoredTensor | Tensor) for value in found.values()) else None


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return f"an object of {value.path}"
    return type(value).__name__


def _description(tree: Any) -> str:
    if isinstance(tree, Inert):
        return f"It is {_kind(tree)}, pickled whole. {RESAVE}"
    if (entries := _entries(tree)) is None:
        return f"It holds a {type(tree).__name__}. {RESAVE}"
    keys = _listed([f"{key!r} ({_kind(value)})" for key, value in entries.items()])
    return f"Top-level keys: {keys or 'none'}. Looked for tensors there and under {', '.join(WRAPPERS)}."


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
