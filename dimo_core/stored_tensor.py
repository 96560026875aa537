"""Tensors that are still in their file: known by shape and place, read when they are asked for.

A published teacher may carry gigabytes of optimiser state beside its weights; only what is asked for is read.
"""

import math
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from dimo_core.errors import CheckpointError


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
