"""Functions of torch that keep on the meta device what they keep where a run computes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = ("linear", "conv1d", "conv2d", "conv_transpose2d")
FULL = ("layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy")
FULL_ON_CPU = ("cross_entropy",)
"""Functions of ``torch.nn.functional`` that autocast computes in half and in full precision."""


def as_on(device: str) -> AbstractContextManager[Any]:
    """Within, functions on the meta device keep what they keep on a CPU, or on an accelerator.

    On meta, attention falls back to the plain formula, whose [B, heads, L, L] weights are not stored where it
    is fused, and autocast does nothing. The functions themselves are exchanged: a mode of torch's would end
    where a backward pass begins, in which checkpointed blocks are computed again. As autocast does, each use
    of this keeps one copy in half precision of every trained weight.

    Args:
        device: ``cpu``, or anything else for an accelerator.
    """
    copies: dict[int, Tensor] = {}
    full = FULL_ON_CPU if device == "cpu" else FULL
    made: dict[str, Any] = {name: _cast(getattr(F, name), name in HALF, copies) for name in (*HALF, *full)}
    fused = _fused(F.scaled_dot_product_attention, dropout=device != "cpu")
    made["scaled_dot_product_attention"] = _cast(fused, True, copies)
    exchanged: AbstractContextManager[Any] = mock.patch.multiple(F, **made)
    return exchanged


def _cast(function: Callable[..., Any], half: bool, copies: dict[int, Tensor]) -> Callable[..., Any]:
    """The function on floating-point inputs of the precision that autocast gives it."""

    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        dtype = torch.get_autocast_dtype("cpu") if half else torch.float32
        if not (half and value.requires_grad and value.is_leaf and value.dtype == torch.float32):
            return value.to(dtype)
        if id(value) not in copies:
            with torch.enable_grad():
                copies[id(value)] = value.to(dtype)
        return copies[id(value)]

    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    return called


def _fused(plain: Callable[..., Tensor], *, dropout: bool) -> Callable[..., Tensor]:
    """``scaled_dot_product_attention``, fused where it is asked for nothing special.

    Args:
        plain: Torch's own.
        dropout: Whether it is fused with dropout, too: its mask is not kept then, but drawn again.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        drops = bool(kwargs.get("dropout_p")) and not dropout
        if attn_mask is not None or args or kwargs.get("enable_gqa") or drops:
            return plain(query, key, value, attn_mask, *args, **kwargs)
        options = {name: kwargs[name] for name in ("is_causal", "scale") if name in kwargs}
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended: Tensor = kernel(query, key, value, **options)[0]
        return attended

    return attend
