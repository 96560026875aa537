"""What a training step costs, against the least that it could: one process, turn by turn.

    python benchmarks/step.py                              # both teachers, scaled to a laptop's CPU
    python benchmarks/step.py --device cuda --size full --precision bf16 --markdown step.md --json step.json

Measured are the presets `paper` and `fast`, `fast` with compiled blocks, and an emulation of the released
code (released.py). They take a step each in turn, so that whatever else the machine does slows all of them
alike, and before each step the matrix products of one forward pass are timed alone. The floor of a step is F
for each of its passes (3 for each network that learns, 1 or, with guidance, 2 for the teacher) at the rate of
these products, F being the operations of one forward pass of all its images. On a CPU, ratios are of the
processors' seconds, which do not count those that other programs took.
"""

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from released import Released
from shapes import BATCHES, SHAPES, Shape, objective_of
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dimo_core.data.feeds import Feed
from dimo_core.device import device_name, find_device
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.objective import Batch
from dimo_core.settings import Train

CONTENDERS = ("released", "paper", "fast", "fast, compiled")
PRODUCTS = ("mm", "linear", "matmul", "gemm", "nvjet", "cutlass")
ATTENTION = ("attention", "flash", "fmha", "sdp")


@attrs.frozen(kw_only=True, eq=False)
class Contender:
    """One way to take a step.

    Attributes:
        step: Takes it.
        tensors: What is kept between steps.
    """

    step: Callable[[], object]
    tensors: Callable[[], Iterable[Tensor]]


@attrs.frozen
class Fixed(Feed):
    """The same conditions in every batch."""

    batch: Callable[[int], Batch]

    def read(self, start: int, count: int) -> Batch:
        """They are on the device already."""
        return self.batch(count)

    def valid(self, start: int, count: int) -> None:
        """All sites."""


class Shapes(TorchDispatchMode):
    """Within, counts the matrix products of layers, by rows, inner width and columns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note its shape."""
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            self.seen[a.shape[0], a.shape[1], b.shape[1]] += 1
        return func(*args, **(kwargs or {}))


class Products:
    """The matrix products of one forward pass, to be timed by themselves.

    Args:
        shapes: How many there are of each.
        device: Where.
        dtype: Of their inputs.
    """

    def __init__(
        self, shapes: Mapping[tuple[int, int, int], int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.work = [
            (torch.randn(m, k).to(device, dtype), torch.randn(n, k).to(device, dtype), count)
            for (m, k, n), count in shapes.items()
        ]
        self.operations = sum(2 * math.prod(shape) * count for shape, count in shapes.items())

    def __call__(self) -> None:
        """Once through all of them."""
        for a, b, count in self.work:
            for _ in range(count):
                F.linear(a, b)


def forward_cost(shape: Shape, count: int) -> tuple[int, Counter[tuple[int, int, int]]]:
    """Operations of one forward pass of ``count`` images, and its matrix products."""
    meta = torch.device("meta")
    teacher = shape.teacher(False, False)
    with meta, torch.no_grad():
        network = teacher.make().eval()
        x = torch.zeros(count, teacher.tokens.length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, Shapes() as shapes:
            network.logits(x, shape.batch(count, meta).conditions, mask_ratio=torch.zeros(count))
    return int(counter.get_total_flops()), shapes.seen


def contender(name: str, shape: Shape, folder: str, given: argparse.Namespace) -> Contender:
    """A contender by its name."""
    device, count = given.where, given.count
    if name == "released":
        released = Released.of(shape, count, device, given.precision, given.teacher_now)
        return Contender(step=released.step, tensors=released.tensors)
    train = Train(batch_size=count, precision=given.precision, compile="compiled" in name, steps=10**6)
    batch, feeds = shape.batch(count, device), dict[Any, Any]()
    with device:
        objective = objective_of(shape, name.partition(",")[0])
    feeds["conditions"] = Fixed(lambda _: batch)
    engine = Engine(objective, feeds, train, folder=Folder(folder), seed=0, device=device)

    def tensors() -> Iterable[Tensor]:
        for module in (*objective.frozen().values(), *(part.module for part in objective.parts().values())):
            yield from module.parameters()
            yield from (p.grad for p in module.parameters() if p.grad is not None)
        for state in engine.states.values():
            yield from state.average.values()
            yield from (t for own in state.optimizer.state.values() for t in own.values())

    return Contender(step=engine.take_step, tensors=tensors)


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of a call, and those that the device worked for it: on a CPU not those that others took."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    began, worked = time.perf_counter(), time.process_time()
    run()
    wait()
    seconds = time.perf_counter() - began
    return seconds, time.process_time() - worked if device.type == "cpu" else seconds


def profiled(made: Contender, device: torch.device) -> tuple[int, dict[str, float]]:
    """Bytes at the fullest moment of a step, with all that is kept; and seconds by kernel."""
    kept = sum({t.untyped_storage().data_ptr(): t.nbytes for t in made.tensors()}.values())
    cuda = device.type == "cuda"
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        made.step()
        peak = torch.cuda.max_memory_allocated() - before
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, profile_memory=not cuda) as run:
        made.step()
    if not cuda:
        alive = peak = 0
        events = run.profiler.kineto_results.events()  # type: ignore[union-attr]
        for _, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
            alive += change
            peak = max(peak, alive)
    seconds: dict[str, float] = {}
    for e in run.key_averages():
        own = e.self_device_time_total if cuda else e.self_cpu_time_total
        if own and (not cuda or e.device_type == DeviceType.CUDA):
            seconds[e.key] = seconds.get(e.key, 0.0) + own / 1e6
    return kept + peak, dict(sorted(seconds.items(), key=lambda item: -item[1]))


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """All contenders of one teacher."""
    shape, device = SHAPES[name](given.size), given.where
    given.teacher_now, given.count = name, given.batch or BATCHES[name][given.size]
    operations, shapes = forward_cost(shape, given.count)
    half = given.precision == "bf16"
    products = Products(shapes, device, torch.bfloat16 if half else torch.float32)
    turns: dict[str, list[tuple[float, float]]] = {one: [] for one in ("products", *given.contenders)}
    with tempfile.TemporaryDirectory() as folder:
        made = {one: contender(one, shape, folder, given) for one in given.contenders}
        for turn in range(given.rounds + 1):
            for one in made:
                before = timed(products, device)
                after = timed(made[one].step, device)
                if turn:  # the first turn warms up
                    turns["products"].append(before)
                    turns[one].append(after)
        looks = {one: profiled(made[one], device) for one in made}
    seconds, work = ({one: median(t[i] for t in own) for one, own in turns.items()} for i in (0, 1))
    rate = products.operations / work["products"]
    guided = shape.recipes["fast"]["guidance"]["scale"] != 1
    floor = (8 if guided else 7) * operations / rate
    rows = {
        one: {
            "seconds": seconds[one],
            "work": work[one],
            "peak_bytes": looks[one][0],
            "share_of_floor": floor / work[one],
            "kernels": looks[one][1],
        }
        for one in made
    }
    facts = {"batch": given.count, "operations_of_F": operations, "rate": rate, "floor": floor}
    return {**facts, "passes": 8 if guided else 7, "turns": turns, "rows": rows}


def elsewhere(kernels: Mapping[str, float]) -> float:
    """Share of the time outside of matrix products and attention."""
    whole = sum(kernels.values())
    inside = (s for key, s in kernels.items() if any(part in key.lower() for part in PRODUCTS + ATTENTION))
    return 1 - sum(inside) / whole


def markdown(name: str, found: Mapping[str, Any], top: int = 8) -> str:
    """The tables of one teacher."""
    rows, first = found["rows"], next(iter(found["rows"].values()))
    lines = [
        f"**{name}**, batch {found['batch']}: F is {found['operations_of_F'] / 1e9:.1f} GFLOP; products do "
        f"{found['rate'] / 1e9:.0f} GFLOP in a second of work, so that {found['passes']} F take "
        f"{found['floor']:.3f} s.",
        "",
        f"| | seconds a step | of work | times as fast as {next(iter(rows))} | peak MiB | "
        "share of the floor | outside products and attention |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one} | {row['seconds']:.3f} | {row['work']:.3f} | {first['work'] / row['work']:.2f} | "
        f"{row['peak_bytes'] / 2**20:.0f} | {row['share_of_floor']:.2f} | {elsewhere(row['kernels']):.2f} |"
        for one, row in rows.items()
    ]
    last = "fast" if "fast" in rows else next(reversed(rows))
    kernels = rows[last]["kernels"]
    whole = sum(kernels.values())
    lines += ["", f"| kernel of {last} | share of its time |", "|---|--:|"]
    lines += [f"| `{key[:70]}` | {kernels[key] / whole:.3f} |" for key in list(kernels)[:top]]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="small")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, help="images a step (default: as fits the size)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    given = parser.parse_args()
    given.where = find_device(given.device)
    found = {name: measure(name, given) for name in given.teachers}
    facts = f"{device_name(given.where)}, torch {torch.__version__}, {given.precision}, size {given.size}"
    text = "\n\n".join([facts, *(markdown(name, one) for name, one in found.items())])
    print(text)
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, **found}, indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
