"""What is used beside the step: copies, samplers, the device of a process, and the dtypes of autocast."""

from typing import Any

import attrs
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import device_mesh
from torch.func import functional_call

from dimo_core import conditions
from dimo_core.backbone import Backbone, drawable, full
from dimo_core.data.feeds import CachedFeed
from dimo_core.device import arithmetic, available_devices, find_device, transfer
from dimo_core.draws import Draws
from dimo_core.engine import launcher
from dimo_core.errors import UsageError
from dimo_core.guidance import Constant
from dimo_core.method.one_step import OneStep
from dimo_core.registry import Registry
from dimo_maskgit.teacher import MaskGit
from dimo_meissonic.teacher import Meissonic

CUDA = torch.device("cuda:0")
RAW: dict[type, list[Any]] = {MaskGit: [0, 1], Meissonic: ["a red circle", "two blue squares"]}


def moved(paper: Any, module: torch.nn.Module) -> torch.nn.Module:
    with paper.reading():
        return module.to(CUDA)


def test_what_waits_is_told_apart_from_what_does_not(paper: Any) -> None:
    """Or else no test here would show anything."""
    with paper:
        x, mask = torch.ones(3, device="cuda"), torch.ones(3, dtype=torch.bool, device="cuda")
        waits = [
            lambda: x.sum().item(),
            lambda: bool(mask.any()),
            lambda: x.cpu(),
            lambda: x[mask],
            lambda: mask.nonzero(),
            lambda: x.masked_select(mask),
            lambda: x.index_put((mask,), x),
            lambda: torch.equal(x, x),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.ones(3).to("cuda"),
            lambda: torch.ones(3).to("cuda", non_blocking=True),
            lambda: torch.ones(3).pin_memory().to("cuda"),
            lambda: x.copy_(torch.ones(3)),
        ]
        for wait in waits:
            before = len(paper.waits)
            wait()
            assert before + 1 == len(paper.waits)
    with paper.waiting_is_an_error():
        assert CUDA == torch.ones(3).pin_memory().to("cuda", non_blocking=True).device
        assert (
            CUDA
            == transfer(torch.ones(3), "cuda").device
            == (x + 1).device
            == x[torch.zeros_like(mask).long()].device
        )
        with pytest.raises(AssertionError, match="tensors on two devices"):
            x + torch.ones(3)
    assert torch.equal(torch.ones(3), x.host)


@pytest.mark.parametrize("name", ["maskgit", "random-order", "halton"])
def test_the_host_waits_for_no_sampler_that_knows_its_counts(
    name: str, paper: Any, tiny_teacher: Any
) -> None:
    assert 0 == waited(name, paper, tiny_teacher)


@pytest.mark.parametrize(("name", "stages"), [("ancestral", 3), ("tau-leaping", 3), ("theta-trapezoidal", 6)])
def test_samplers_in_time_wait_once_a_stage(name: str, stages: int, paper: Any, tiny_teacher: Any) -> None:
    """How many sites jump is drawn; it decides how many rows the head has next, and when all are decided."""
    assert 1 <= waited(name, paper, tiny_teacher) <= stages


def waited(name: str, paper: Any, teacher: Any) -> int:
    """How often the host waits while a sampler draws; the tokens are those of the CPU."""
    sampler, guidance = Registry.discover({}).load("sampler", name)(), Constant(scale=3.0)
    c, network = torch.tensor([0, 1, 1]), teacher.network()

    def drawn(c: torch.Tensor, device: torch.device) -> torch.Tensor:
        draws = Draws(seed=5, total=3, device=device)
        with torch.no_grad():
            return sampler.sample(teacher, network, c, steps=3, guidance=guidance, draws=draws).tokens

    expected = drawn(c, torch.device("cpu"))
    moved(paper, network)
    with paper:
        c = transfer(c, CUDA)
        paper.waits.clear()
        found = drawn(c, CUDA)
        assert torch.equal(expected, found.host)
        return len(paper.waits)


def test_a_generator_is_sampled_with_one_wait_at_the_end(paper: Any, tiny_teacher: Any) -> None:
    generator = OneStep().build(tiny_teacher).eval()
    moved(paper, generator)
    with paper:
        c = transfer(torch.tensor([0, 1]), CUDA)
        paper.waits.clear()
        with drawable(generator):
            generator.sample(c, Draws(seed=0, total=2, device=CUDA))
            assert [] == paper.waits
    assert 1 == len(paper.waits)


def test_tokens_that_were_encoded_before_are_not_waited_for(paper: Any, tiny_teacher: Any) -> None:
    @attrs.frozen
    class Encoded:
        tokens = torch.arange(24, dtype=torch.int16).view(6, 4) % 5
        labels = torch.tensor([0, 1] * 3)

        def __len__(self) -> int:
            return 6

    with paper.waiting_is_an_error():
        batch = CachedFeed(teacher=tiny_teacher, examples=Encoded(), seed=0, device=CUDA).read(4, 3)
    assert (CUDA, CUDA, torch.long) == (batch.tokens.device, batch.conditions.device, batch.tokens.dtype)


class Logits(torch.nn.Module):
    """A network whose call gives logits."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, c: Any, ratio: torch.Tensor) -> torch.Tensor:
        return self.network.logits(x, c, mask_ratio=ratio)


@pytest.mark.parametrize("made", [MaskGit, Meissonic])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_autocast_of_the_device_reaches_every_product(
    made: type, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's fake tensors, which go no way back, but know autocast."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device: tests/gpu show on it what this shows on paper")
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    teacher = made()
    c, columns = teacher.condition_skeleton(RAW[made]), teacher.tokens.columns
    network, seen = Logits(teacher.skeleton().eval()), set[torch.dtype]()
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *called: seen.add(called[-1].dtype))
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        state = {name: fake.from_tensor(tensor).to(CUDA) for name, tensor in tensors.items()}
        c = conditions.tree_map(lambda leaf: torch.empty_like(leaf, device=CUDA), c)
        x = torch.zeros(2, teacher.tokens.length, dtype=torch.long, device=CUDA)
        ratio = torch.ones(2, device=CUDA)
        with arithmetic(precision, CUDA):
            z = functional_call(network, state, (x, c, ratio))
    assert {torch.bfloat16 if precision == "bf16" else torch.float32} == seen
    assert (CUDA, (2, teacher.tokens.length, columns)) == (z.device, tuple(z.shape))
    assert torch.float32 == full(z).dtype


@pytest.fixture
def two(paper: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two devices, and two processes that never meet; what they would have been told."""
    told: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.append(str(device)))
    monkeypatch.setattr(launcher.dist, "init_process_group", lambda backend, **_: told.append(backend))
    monkeypatch.setattr(launcher.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(launcher.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(device_mesh, "init_device_mesh", lambda kind, shape, **_: told.append((kind, shape)))
    monkeypatch.setattr(launcher, "_meeting", dict)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return told


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_has_the_device_of_its_local_rank(
    name: str, two: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("cuda:0", "cuda:1", "cpu") == available_devices()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with launcher.joined(name, 1) as (own, device):
        assert (torch.device("cuda:1"), 1, 2) == (device, own.rank, own.size)
    assert ["cuda:1", "cpu:gloo,cuda:nccl", ("cuda", (2, 1))] == two


def test_a_local_rank_without_a_device_is_named(two: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    said = r"device 'cuda:5' is not available. This machine has: cuda:0, cuda:1, cpu. Choose one"
    with pytest.raises(UsageError, match=said), launcher.joined("cuda", 1):
        pass


def test_a_machine_without_a_device_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device 'cuda' is not available. This machine has: .*cpu"):
        find_device("cuda")
