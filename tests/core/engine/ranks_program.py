"""What each of several processes does for ``test_ranks``: cases of ``test_trajectories``, alone and together.

    torchrun --nproc-per-node 2 ranks_program.py SHARDS STEPS FOLDER OWN,OTHER,... CASE ...

``FOLDER/expected`` holds what one process found at the end. These take all steps, leave in ``FOLDER/OWN``
what they saved half way, and go on from there, and from what others left in ``FOLDER/OTHER``. How far all of
that is from what was expected is in ``FOLDER/OWN/found.json``.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import test_trajectories as known
import torch
from diffusers.models.normalization import RMSNorm
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dimo_core import conditions
from dimo_core.conditions import Condition
from dimo_core.engine.loop import Engine
from dimo_core.engine.ranks import ALONE, Ranks, joined
from dimo_core.files.folder import Folder
from dimo_core.files.weights import whole
from dimo_core.method.step import Step
from dimo_core.objective import Batch
from dimo_core.settings import Train
from dimo_lora.parts import Lora, LoraDenoiser
from dimo_meissonic.architecture import Architecture
from dimo_meissonic.transformer import MeissonicTransformer

# Dropout is drawn by torch for each micro-batch of each process, and never the same.
known.TINY = attrs.evolve(known.TINY, dropout=0.0)
MEISSONIC = Architecture(
    num_layers=1,
    num_single_layers=1,
    num_attention_heads=2,
    attention_head_dim=8,
    axes_dims_rope=(2, 2, 4),
    joint_attention_dim=6,
    pooled_projection_dim=16,
    vocab_size=8,
    codebook_size=7,
    downsample=False,
)


class Wide(MeissonicTransformer):
    """In float64 throughout: where the network computes in fp32, a last bit would grow to one of fp32."""

    def forward(self, *given: Any, **more: Any) -> Tensor:
        with patch.object(Tensor, "float", Tensor.double), patch.object(RMSNorm, "forward", _norm):
            return super().forward(*given, **more)


def _norm(norm: RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


@attrs.frozen(kw_only=True)
class TinyMeissonic(known.TinyMaskGit):
    """A small Meissonic of made-up weights, its three prompts by number."""

    def skeleton(self) -> MeissonicTransformer:
        return Wide(**MEISSONIC.as_config())

    def encode_conditions(self, raw: Sequence[Any]) -> Condition:
        return self.prompt(torch.tensor(list(raw)))

    def prompt(self, label: Tensor) -> Condition:
        a, at = MEISSONIC, 1.0 + label.double()[:, None]
        text = (at * torch.arange(5 * a.joint_attention_dim)).cos().unflatten(1, (5, -1))
        pooled = (at * torch.arange(a.pooled_projection_dim)).sin()
        return {"text": text, "pooled": pooled, "micro": at.expand(-1, 5)}

    def null_condition(self, c: Condition) -> Condition:
        return conditions.tree_map(torch.zeros_like, c)

    def frozen_parameters(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.skeleton().named_parameters() if name.startswith("mlm_layer."))


@attrs.frozen
class Prompts(known.Rows):
    """What ``Rows`` reads, as prompts."""

    teacher: TinyMeissonic

    def read(self, start: int, count: int) -> Batch:
        batch = super().read(start, count)
        return attrs.evolve(batch, conditions=self.teacher.prompt(batch.conditions))


def case(name: str) -> known.Case:
    """A case of ``test_trajectories``; of ``lora/NAME`` generator and auxiliary are adapters."""
    plain = name.removeprefix("lora/")
    found, parts = known.CASES[plain], {}
    if plain.startswith("meissonic/"):
        parts |= {"teacher": TinyMeissonic()}
    if name != plain:
        parts |= {"generator": Lora(rank=2), "auxiliary": LoraDenoiser(rank=2)}
    return attrs.evolve(found, ingredients=attrs.evolve(found.ingredients, **parts))


def engine(name: str, steps: int, folder: Path, ranks: Ranks) -> Engine:
    """A run of a case that has not begun."""
    chosen = case(name)
    teacher = chosen.ingredients.teacher
    objective = chosen.objective.build(chosen.ingredients)
    for part in objective.parts().values():
        part.module.double()
    return Engine(
        objective,
        Prompts(teacher) if isinstance(teacher, TinyMeissonic) else known.Rows(),
        Train(steps=steps, batch_size=8 * chosen.accumulate, accumulate=chosen.accumulate),
        folder=Folder(str(folder / name), mute=not ranks.leads),
        seed=5,
        device=torch.device("cpu"),
        ranks=ranks,
    )


def all_steps(name: str, steps: int, folder: Path, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Train from the first step to the last, and save half way."""
    run = engine(name, steps, folder, ranks)
    while run.step < steps // 2:
        run.take_step()
    run.save()
    return _trained(run, ranks)


def rest(name: str, steps: int, folder: Path, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Go on to the end."""
    run = engine(name, steps, folder, ranks)
    assert run.resume()
    assert run.step == steps // 2
    return _trained(run, ranks)


@contextmanager
def _tokens() -> Iterator[list[Tensor]]:
    """Within, the tokens that generators draw, masked again, one micro-batch after the other."""
    seen: list[Tensor] = []
    plain = Step.x_tilde_t

    def noted(*given: Any) -> Tensor:
        seen.append(plain(*given))
        return seen[-1]

    with patch.object(Step, "x_tilde_t", noted):
        yield seen


def _trained(run: Engine, ranks: Ranks) -> dict[str, Tensor]:
    with _tokens() as seen:
        while run.step < run.train.steps:
            logs = run.take_step(watch=True)
    found = {f"log {key}": value for key, value in logs.items()}
    if seen:
        found["tokens"] = torch.cat(ranks.gathered([torch.stack(seen)]), dim=1)
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


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference; of runs that go on, what they draw is compared from there on."""
    assert found.keys() == expected.keys()
    return max(
        float(
            (value.double() - expected[key][-len(value) :].double() if value.ndim else value - expected[key])
            .abs()
            .max()
        )
        for key, value in found.items()
    )


def main(shards: int, steps: int, folder: Path, places: list[str], names: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with joined("cpu", shards) as (ranks, _):
        for name in names:
            expected = load_file(folder / "expected" / f"{name}.safetensors")
            found[f"{name}: {places[0]}"] = apart(all_steps(name, steps, folder / places[0], ranks), expected)
            for place in places:
                found[f"{name}: {place}, then {places[0]}"] = apart(
                    rest(name, steps, folder / place, ranks), expected
                )
        if ranks.leads:
            (folder / places[0] / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(","), sys.argv[5:])
