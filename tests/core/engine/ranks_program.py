"""What ``test_ranks`` looks at: cases of ``test_trajectories``, trained by one process and by several.

    python ranks_program.py FOLDER STEPS COUNT/SHARDS,... CASE ...

One process takes all steps, and saves half way into ``FOLDER/alone``. So do COUNT processes with SHARDS
shards, which then go on from what they saved themselves, from what that one did, and from what the processes
before them did. At last one process goes on from each of these. How far all that is from the first is written
to stdout.
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
from forked import forked
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.engine.launcher import joined
from dimo_core.engine.loop import Engine
from dimo_core.engine.ranks import ALONE, Ranks
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
    """A small Meissonic of made-up weights, its three prompts by number.

    They fit the width of what they multiply: with larger ones a last bit grows 1e8 times in 20 steps.
    """

    def network(self, *, share: bool = False) -> Backbone:
        network = self.skeleton().double().eval()
        with torch.no_grad():
            for k, (name, p) in enumerate(network.named_parameters()):
                gain = 1.0 if "weight" in name and p.ndim == 1 else 0.0
                p.copy_(known.waves(p, k + 1) / p[0].numel() ** 0.5 + gain)
        return network

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
        {"conditions": Prompts(teacher)}
        if isinstance(teacher, TinyMeissonic)
        else {stream: known.Rows() for stream in chosen.objective.needs},
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
    """The largest difference; of runs that go on, what they drew is compared from there on."""
    assert found.keys() == expected.keys()
    drawn = len(found.get("tokens", ()))
    expected = {key: value[-drawn:] if key == "tokens" else value for key, value in expected.items()}
    return max(float((value.double() - expected[key].double()).abs().max()) for key, value in found.items())


def alone(folder: Path, steps: int, names: list[str]) -> None:
    """What one process finds at the end."""
    for name in names:
        file = folder / "expected" / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(all_steps(name, steps, folder / "alone"), file)


def again(folder: Path, steps: int, names: list[str], places: list[str]) -> None:
    """Go on alone with what was saved in some places."""
    _tell(
        folder / "again",
        {
            f"{name}: {place}, then alone": apart(rest(name, steps, folder / place), expected(folder, name))
            for name in names
            for place in places
        },
    )


def together(folder: Path, steps: int, names: list[str], places: list[str], shards: int) -> None:
    """The same by several processes, whose own place is the first one."""
    found, own = {}, places[0]
    with joined("cpu", shards) as (ranks, _):
        for name in names:
            known = expected(folder, name)
            found[f"{name}: {own}"] = apart(all_steps(name, steps, folder / own, ranks), known)
            for place in places:
                found[f"{name}: {place}, then {own}"] = apart(rest(name, steps, folder / place, ranks), known)
        if ranks.leads:
            _tell(folder / own, found)


def expected(folder: Path, name: str) -> dict[str, Tensor]:
    """What one process found."""
    return load_file(folder / "expected" / f"{name}.safetensors")


def _tell(folder: Path, found: dict[str, float]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "found.json").write_text(json.dumps(found))


def main(folder: Path, steps: int, layouts: list[str], names: list[str]) -> int:
    """All layouts, one after the other."""
    torch.set_num_threads(1)
    places = [layout.replace("/", " over ") for layout in layouts]
    codes = forked(1, alone, folder, steps, names)
    for i, layout in enumerate(layouts):
        count, _, shards = layout.partition("/")
        known = dict.fromkeys([places[i], "alone", *places[:i][-1:]])
        codes += forked(int(count), together, folder, steps, names, [*known], int(shards))
    codes += forked(1, again, folder, steps, names, places)
    if any(codes):
        return 1
    found = [json.loads((folder / place / "found.json").read_text()) for place in (*places, "again")]
    print(json.dumps({what: far for each in found for what, far in each.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:]))
