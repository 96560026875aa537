"""How far gradients in bf16 are from those in float64, with heads in bf16 and in fp32.

    python benchmarks/bf16_heads.py
    python benchmarks/bf16_heads.py --device cuda --json heads.json

One step of the embedded teachers, guided, with an auxiliary a little way from the teacher. All precisions see
the same tokens, those that were drawn in float64: a token that falls differently is no error of rounding.
Written is the length of the difference of two gradients, as a share of that in float64, over all parameters.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.config.distil import resolve_job
from dimo_core.device import arithmetic, find_device
from dimo_core.draws import Draws, categorical
from dimo_core.method.process import Remask, draw_remask
from dimo_core.method.step import Step

WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, heads in fp32": ("bf16", True)}


def step_of(teacher: str, device: torch.device) -> tuple[Step, Condition]:
    """The embedded job's networks on a device, and conditions; everything learns."""
    job = resolve_job({"teacher": teacher, "guidance": {"name": "constant", "scale": 2.0}})
    step: Step = job.objective.build(job.ingredients()).step  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in step.p_psi.parameters():
            p.add_(0.02 * p.std(correction=0) * torch.randn(p.shape, generator=generator))
    for network in (step.p_phi, step.p_theta, step.p_psi):
        network.to(device)
    raw = job.conditions.balanced(job.teacher.conditioning, 32)
    return step, conditions.to(job.teacher.encode_conditions(raw), device)


@contextmanager
def full_heads(*networks: Backbone) -> Iterator[None]:
    """Within, heads compute in fp32 whatever autocast says."""

    def full(network: Backbone) -> Any:
        head = type(network).head

        def whole(hidden: Tensor, rows: Tensor | None = None) -> Tensor:
            with torch.autocast(hidden.device.type, enabled=False):
                return head(network, hidden.float(), rows)

        return whole

    for network in networks:
        vars(network)["head"] = full(network)
    try:
        yield
    finally:
        for network in networks:
            del vars(network)["head"]


def tokens(step: Step, c: Condition, draws: Draws, remask: Remask) -> tuple[Tensor, Tensor]:
    """x_tilde_t, and x_theta at masked rows."""
    with torch.no_grad():
        rollout = step.p_theta.rollout(c, draws)
        z_theta = step.theta(rollout, remask, learns=False)(slice(None))
        return step.x_tilde_t(rollout, remask), categorical(z_theta, rollout.u.flatten()[remask.rows])


def gradients(
    step: Step, c: Condition, draws: Draws, remask: Remask, drawn: tuple[Tensor, Tensor]
) -> Mapping[str, Tensor]:
    """Of generator and auxiliary, each in one piece."""
    x_tilde_t, x_theta = drawn
    theta = step.theta(step.p_theta.rollout(c, draws), remask, learns=True)
    phi, psi = step.phi(x_tilde_t, c, remask), step.psi(x_tilde_t, c, remask, learns=True)
    w = step.w(remask, theta, phi)
    for k in step.chunks(remask):
        z_theta, z_phi, z_psi = theta(k), phi(k), psi(k)
        step.generator_backward(z_theta, z_phi, z_psi, w[k], draws.total)
        step.auxiliary_backward(z_psi, x_theta[k], remask.total)
    theta.backward()
    psi.backward()
    found = {}
    for name, part in (("generator", step.p_theta), ("auxiliary", step.p_psi)):
        found[name] = torch.cat([p.grad.double().flatten() for p in part.parameters() if p.grad is not None])
        part.zero_grad(set_to_none=True)
    return found


def errors(teacher: str, seeds: int, device: torch.device) -> Mapping[tuple[str, str], float]:
    """By part and way of computing, the mean over draws."""
    step, c = step_of(teacher, device)
    exact, c_exact = step_of(teacher, device)
    networks = (step.p_phi, step.p_theta.backbone, step.p_psi.backbone)  # type: ignore[union-attr]
    for network in (exact.p_phi, exact.p_theta, exact.p_psi):
        network.double()
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        draws = Draws(seed=seed, total=32, device=device)
        remask = draw_remask(step.teacher.tokens.length, "linear", "exact", draws)
        drawn = tokens(exact, c_exact, draws, remask)
        right = gradients(exact, c_exact, draws, remask, drawn)
        for way, (precision, full) in WAYS.items():
            with arithmetic(precision, device), full_heads(*networks) if full else nullcontext():
                got = gradients(step, c, draws, remask, drawn)
            for part, gradient in got.items():
                error = float((gradient - right[part]).norm() / right[part].norm())
                found.setdefault((part, way), []).append(error)
    return {key: mean(values) for key, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="+", default=["maskgit", "meissonic"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the shares here")
    given = parser.parse_args()
    device, every = find_device(given.device), {}
    print(f"| teacher | gradient of the | {' | '.join(WAYS)} |\n|---|---|{'--:|' * len(WAYS)}")
    for teacher in given.teachers:
        found = errors(teacher, given.seeds, device)
        every |= {f"{teacher}, {part}, {way}": share for (part, way), share in found.items()}
        for part in ("generator", "auxiliary"):
            print(f"| {teacher} | {part} | {' | '.join(f'{found[part, way]:.2%}' for way in WAYS)} |")
    if given.json:
        given.json.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
