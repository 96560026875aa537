"""Images and labels in one file: ``Arrays``."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import numpy as np
import safetensors
import torch
from attrs import validators as v
from jaxtyping import Int, Shaped, UInt8
from safetensors.numpy import load as load_safetensors
from torch import Tensor

from dimo_core import limits
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.urls import content
from dimo_core.sources import Data, Examples
from dimo_images.parts import SPLITS, part_of

Array = Shaped[np.ndarray, "..."]
"""Of any type and shape: what a file holds is checked, not trusted."""

BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, safetensors.SafetensorError)
"""What the readers raise for missing, corrupt and foreign files."""


@attrs.frozen(kw_only=True)
class Arrays(Data):
    """``images`` (uint8) and ``labels`` (integers from 0) in a .safetensors or .npz file.

    Attributes:
        path: The file, or any fsspec URL of one.
        layout: Order of the axes of ``images``; auto finds the channel axis by its length, 1 or 3. Images
            with three axes are [N, H, W], gray.
        classes: Class names; null numbers them.
        held_out: Share of each class in the split ``held-out``.
        seed: Seed of that choice.
    """

    path: str
    layout: Literal["auto", "NCHW", "NHWC"] = attrs.field(
        default="auto", validator=v.in_(("auto", "NCHW", "NHWC"))
    )
    classes: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(tuple))
    held_out: float = attrs.field(default=0.1, converter=float, validator=[v.ge(0), v.lt(1)])
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def splits(self) -> Sequence[str]:
        """``train`` and ``held-out``."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Read one part.

        Raises:
            UsageError: for an unknown or empty split, or arrays of another kind than described above.
            CheckpointError: when the file is missing, corrupt or of another format.
        """
        stored = _read(self.path)
        if missing := {"images", "labels"} - set(stored):
            raise UsageError(
                f"{self.path!r} has no array {', '.join(sorted(missing))}; it holds:"
                f" {', '.join(sorted(stored)) or 'none'}."
            )
        images = self._images(stored["images"])
        labels = self._labels(stored["labels"], len(images))
        count = int(labels.max()) + 1
        if count > limits.CLASSES:
            raise UsageError(
                f"{self.path!r} has labels up to {count - 1:,}, and there may be {limits.CLASSES:,} classes. "
                "Number the classes from 0 on."
            )
        classes = self.classes or tuple(map(str, range(count)))
        if len(classes) < count:
            raise UsageError(
                f"{self.path!r} has labels up to {count - 1}, but {len(classes)} classes are named."
            )
        part = part_of(labels.tolist(), split, held_out=self.held_out, seed=self.seed)
        return Examples(images=images[part], labels=labels[part], classes=classes)

    def _images(self, array: Array) -> UInt8[Tensor, "N C H W"]:
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
            raise UsageError(
                f"images of {self.path!r} must be uint8 of shape [N, C, H, W], [N, H, W, C] or [N, H, W],"
                f" got {array.dtype} of shape {list(array.shape)}."
            )
        images = torch.from_numpy(array)
        if images.ndim == 3:
            return images[:, None]
        layout = self.layout
        if layout == "auto":
            fits = [name for name, axis in (("NCHW", 1), ("NHWC", 3)) if array.shape[axis] in (1, 3)]
            if len(fits) != 1:
                raise UsageError(
                    f"which axis of {list(array.shape)} holds the channels? Give layout: NCHW or NHWC."
                )
            layout = "NCHW" if fits == ["NCHW"] else "NHWC"
        return images if layout == "NCHW" else images.permute(0, 3, 1, 2).contiguous()

    def _labels(self, array: Array, count: int) -> Int[Tensor, " N"]:
        integers = np.issubdtype(array.dtype, np.integer)
        if not integers or array.shape != (count,) or array.min(initial=0) < 0:
            raise UsageError(
                f"labels of {self.path!r} must be {count} integers from 0, got {array.dtype} of shape"
                f" {list(array.shape)}, smallest {array.min(initial=0)}."
            )
        return torch.from_numpy(array.astype(np.int64))


def _read(path: str) -> Mapping[str, Array]:
    """The arrays of a file, by name; nothing in the file is executed."""
    if not path.lower().endswith((".safetensors", ".npz")):
        raise UsageError(f"{path!r} is of no known format. Known endings: .safetensors, .npz.")
    try:
        data = content(path, limits.ARRAYS)
        if path.lower().endswith(".safetensors"):
            return dict(load_safetensors(data))
        with np.lib.npyio.NpzFile(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BROKEN as error:
        raise CheckpointError(f"cannot read arrays from {path!r}: {error}.") from error
