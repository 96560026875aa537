"""A CUDA device on paper: tensors that bear its name and compute on the CPU.

What a machine without a GPU can show of one: that devices are not mixed, and that the host waits for nothing.
Mocked is what asks for a driver; every operation is torch's own, so that numbers must be those of the CPU.
torch's fake tensors would do for this if they could go backward without a driver, and had values.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
SHAPED_BY_VALUES = {
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
}
"""Operations whose results have shapes that the device must tell."""
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}

NOT_FOR_THE_CPU = {
    op: decomposition_table[op]
    for op in (aten._fused_rms_norm.default, aten._fused_rms_norm_backward.default)
}
"""Kernels of devices alone, as torch's own formulas."""


class WaitedError(AssertionError):
    """The host waits for the device."""


class OnPaper(Tensor):
    """A tensor of the device; to torch's C++ it is on meta, so that nothing takes it for one of the CPU.

    Attributes:
        host: Its values.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnPaper":
        shape = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device="meta")
        made = Tensor._make_subclass(cls, shape, False, device_for_backend_keys=CUDA)
        made.host = host
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the device")


class PaperDevice(TorchDispatchMode):
    """Within, ``cuda`` is there.

    Attributes:
        strict: That the host waits is an error; else it is noted in ``waits``.
        waits: What it waited for.
        kernels: How often each operation was launched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict, self.loading, self.waits, self.kernels = False, False, list[str](), Counter[str]()

    @contextmanager
    def _with(self, flag: str) -> Iterator[None]:
        setattr(self, flag, True)
        with self:
            yield
        setattr(self, flag, False)

    def reading(self) -> AbstractContextManager[None]:
        """Within, ``meta`` is torch's own device: so networks are made before their weights are read."""
        return self._with("loading")

    def waiting_is_an_error(self) -> AbstractContextManager[None]:
        """Within, nothing may make the host wait."""
        return self._with("strict")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = dict(kwargs or {}), func.overloadpacket
        device = kwargs.get("device")
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        papers = [x for x in tensors if isinstance(x, OnPaper)]
        if not papers and not self.named(device):
            return self.of_the_host(packet, func, args, kwargs)
        if packet is aten._fused_sdp_choice:
            return 0  # the plain formula: the others would be kernels of a device
        self.kernels[str(packet)] += 1
        self.look(packet, args, kwargs, papers, [x for x in tensors if not isinstance(x, OnPaper)])
        stays = device is None or self.named(device)
        args, kwargs = tree_map(lambda x: x.host if isinstance(x, OnPaper) else x, (args, kwargs))
        kwargs.pop("pin_memory", None)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        found, shape = tree_flatten(NOT_FOR_THE_CPU.get(func, func)(*args, **kwargs))
        if papers and any(isinstance(x, bool | int | float) for x in found):
            self.wait(f"{packet} tells the host a value")
        same = {id(x.host): x for x in papers}

        def dressed(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return same[id(x)] if id(x) in same else OnPaper(x)

        return tree_unflatten([dressed(x) for x in found] if stays else found, shape)

    @staticmethod
    def of_the_host(packet: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation on the CPU; page-locked memory is marked as such, which takes a driver."""
        if packet is aten.is_pinned:
            return getattr(args[0], "pinned", False)
        if packet is aten._pin_memory:
            copy = args[0].clone()
            copy.pinned = True
            return copy
        return func(*args, **kwargs)

    def named(self, device: Any) -> bool:
        """Whether this is the device; what C++ makes beside a tensor of it is on meta."""
        names = ("cuda",) if self.loading else ("cuda", "meta")
        return device is not None and torch.device(device).type in names

    def wait(self, why: str) -> None:
        self.waits.append(why)
        if self.strict:
            raise WaitedError(why)

    def look(self, packet: Any, args: Any, kwargs: Any, papers: list[Any], plain: list[Tensor]) -> None:
        """Notes what waits, and refuses what a device would refuse."""
        assert not any(x.is_meta for x in plain), f"{packet} of a tensor without values"
        sent = bool(plain) and not (kwargs.get("non_blocking") and getattr(plain[0], "pinned", False))
        if packet is aten._to_copy:
            if papers and "device" in kwargs and not self.named(kwargs["device"] or CUDA):
                self.wait("a copy to the host")
            if sent:
                self.wait("a copy to the device that is not from page-locked memory, or is waited for")
        elif packet is aten.copy_:
            if not isinstance(args[0], OnPaper):
                self.wait("a copy to the host")
            if sent:
                self.wait("a copy to the device")
        else:
            assert not any(x.dim() for x in plain), f"{packet} of tensors on two devices"
            masks = packet in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
            if masks or packet in SHAPED_BY_VALUES or (plain and packet is aten.where):
                self.wait(f"{packet}, whose shape hangs on values, or which takes a number of the host")


class HostGenerator:
    """``torch.Generator`` of the CPU, whatever its device is called."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return torch._C.Generator("cpu")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperDevice]:
    """The device; where there is a real one, tests/gpu show more."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device: tests/gpu show on it what this shows on paper")
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_rng_state": lambda *_: None,
        "set_rng_state": lambda *_: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch, "Generator", HostGenerator)
    # What modules hold is exchanged, and not the storage below it: that is a host's.
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    yield PaperDevice()
    torch._C._set_only_lift_cpu_tensors(False)
