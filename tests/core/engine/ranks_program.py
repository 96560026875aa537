"""What each of several processes does for ``test_ranks``: cases of ``test_trajectories``, alone and together.

    torchrun --nproc-per-node 2 ranks_program.py SHARDS FOLDER CASE ...

``FOLDER/alone`` holds, by case, a run that one process stopped half way; this goes on with it, and leaves
such a run in ``FOLDER/together``. What was found is in ``FOLDER/found.json``.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import test_trajectories as known
import torch
from torch import Tensor

from dimo_core.engine.loop import Engine
from dimo_core.engine.ranks import ALONE, Ranks, joined
from dimo_core.files.folder import Folder
from dimo_core.files.weights import whole
from dimo_core.settings import Train
from dimo_lora.parts import Lora, LoraDenoiser

HALF, STEPS = 5, 10
# Dropout is drawn by torch for each micro-batch of each process, and never the same.
known.TINY = attrs.evolve(known.TINY, dropout=0.0)


def case(name: str) -> known.Case:
    """A case of ``test_trajectories``; of ``lora/NAME`` generator and auxiliary are adapters."""
    found = known.CASES[name.removeprefix("lora/")]
    if name.startswith("lora/"):
        parts = {"generator": Lora(rank=2), "auxiliary": LoraDenoiser(rank=2)}
        return attrs.evolve(found, ingredients=attrs.evolve(found.ingredients, **parts))
    return found


def engine(name: str, folder: Path, ranks: Ranks) -> Engine:
    """A run of a case that has not begun."""
    chosen = case(name)
    objective = chosen.objective.build(chosen.ingredients)
    for part in objective.parts().values():
        part.module.double()
    return Engine(
        objective,
        {"conditions": known.Rows()},
        Train(steps=STEPS, batch_size=8 * chosen.accumulate, accumulate=chosen.accumulate),
        folder=Folder(str(folder / name), mute=not ranks.leads),
        seed=5,
        device=torch.device("cpu"),
        ranks=ranks,
    )


def half(name: str, folder: Path, ranks: Ranks = ALONE) -> None:
    """Train half way, and save."""
    run = engine(name, folder, ranks)
    while run.step < HALF:
        run.take_step()
    run.save()


def rest(name: str, folder: Path, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Go on to the end."""
    run = engine(name, folder, ranks)
    assert run.resume()
    assert run.step == HALF
    return _trained(run)


def all_steps(name: str, folder: Path, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Train from the first step to the last."""
    return _trained(engine(name, folder, ranks))


def _trained(run: Engine) -> dict[str, Tensor]:
    while run.step < STEPS:
        logs = run.take_step(watch=True)
    found = {f"log {key}": value for key, value in logs.items()}
    for name, state in run.states.items():
        found |= {f"{name} {key}": whole(p.detach()) for key, p in state.trained.items()}
        found |= {f"average of {name} {key}": whole(p.detach()) for key, p in state.average.items()}
        moments = {
            f"{key} {m}": run_state[m]
            for key, p in state.trained.items()
            for run_state in [state.optimizer.state[p]]
            for m in ("exp_avg", "exp_avg_sq")
        }
        found |= {f"moments of {name} {key}": whole(m) for key, m in moments.items()}
    return found


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference."""
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def main(shards: int, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with joined("cpu", shards) as (ranks, _):
        for name in names:
            alone = all_steps(name, folder / "unused", ALONE)
            do = partial(apart, alone)
            half(name, folder / "together", ranks)
            found[name] = {
                "together": do(all_steps(name, folder / "unused", ranks)),
                "alone, then together": do(rest(name, folder / "alone", ranks)),
                "together, then together": do(rest(name, folder / "together", ranks)),
            }
        if ranks.leads:
            (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
