"""The device by name."""

import pytest
import torch

from dimo_core.device import arithmetic, available_devices, crowded, find_device, transfer, widest
from dimo_core.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    def make(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("there", "expected"), [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 2, "mps": True}, "cuda")]
)
def test_auto_takes_the_fastest(machine, there, expected):
    machine(**there)
    assert torch.device(expected) == find_device("auto")


@pytest.mark.parametrize(
    ("device", "threads", "load", "warned"),
    [("cpu", 2, 1.6, True), ("cpu", 2, 0.9, False), ("cpu", 1, 3.0, False), ("cuda", 2, 3.0, False)],
)
def test_threads_on_a_cpu_that_others_use_are_warned_of(monkeypatch, device, threads, load, warned):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert warned == ("OMP_NUM_THREADS=1" in (crowded(torch.device(device)) or ""))


def test_where_no_load_is_known_nothing_is_said(monkeypatch):
    monkeypatch.delattr("os.getloadavg")
    assert crowded(torch.device("cpu")) is None


def test_a_device_can_be_named(machine):
    machine(cuda=2)
    assert ["cpu", "cuda", "cuda:1"] == [str(find_device(name)) for name in ("cpu", "cuda", "cuda:1")]
    assert ("cuda:0", "cuda:1", "cpu") == available_devices()


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:x"])
def test_what_is_not_there_is_an_error_that_names_what_is(machine, name):
    machine()
    with pytest.raises(UsageError, match=f"device '{name}' is not available. This machine has: cpu."):
        find_device(name)


@pytest.fixture
def moves(monkeypatch):
    """What tensors are asked to do, on a machine that has no accelerator: the arguments of ``to``."""
    asked = []

    def to(self, device, *, non_blocking):
        asked.append((str(device), self.dtype, non_blocking))
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    return asked


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("mps", ("mps", torch.float32, False)),
        ("cpu", ("cpu", torch.float64, False)),
        ("cuda:1", ("cuda:1", torch.float64, True)),
    ],
)
def test_apples_gpus_have_no_float64_and_only_cuda_reads_temporaries_later(moves, device, expected):
    transfer(torch.ones(2, dtype=torch.float64), device)
    transfer(torch.ones(2, dtype=torch.long), device)
    assert [expected, (expected[0], torch.long, expected[2])] == moves
    assert expected[1] == widest(torch.device(device))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_precision_holds_within_and_torchs_settings_are_back_afterwards(precision):
    def settings():
        rounded = torch.backends.cudnn.allow_tf32
        return torch.get_float32_matmul_precision(), rounded, torch.is_autocast_enabled("cpu")

    before, x = settings(), torch.ones(2, 2)
    with arithmetic(precision, torch.device("cpu")):
        assert {"bf16": torch.bfloat16}.get(precision, torch.float32) == (x @ x).dtype
        now = ("high", True, False) if precision == "tf32" else (*before[:2], precision == "bf16")
        assert now == settings()
    assert before == settings()
