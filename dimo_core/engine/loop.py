"""The loop. It knows parts and phases, and nothing of what they mean.

A step: for each phase, zero the gradients of its parts, accumulate over micro-batches, check, clip and
update; then move the averages. Everything random is keyed by the step, so the state of a run is its
parts and one integer.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import attrs
import torch
from loguru import logger
from torch import Tensor, nn

from dimo_core.backbone import Backbone, blocks
from dimo_core.data.feeds import Feed
from dimo_core.device import arithmetic
from dimo_core.draws import Draws, stream_seed
from dimo_core.engine.checkpoint import load_newest, prune, save_checkpoint, step_name
from dimo_core.engine.finite import FiniteGuard
from dimo_core.engine.frozen import cast_frozen
from dimo_core.engine.metrics_log import NAME, forget_metrics, metrics_facts, write_metrics
from dimo_core.engine.part_state import PartState
from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.engine.succession import hand_over, heirs, load_heirs
from dimo_core.errors import CheckpointError, Interrupted, NumericalError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import strangers
from dimo_core.files.log import Log
from dimo_core.objective import Objective, Phase, Stream, add_to, streams
from dimo_core.progress import Progress, Stop
from dimo_core.settings import Train

PATIENCE = 100
"""Updates of a phase that are skipped in a row at most, with ``train.nonfinite: skip``."""

DIVERGED = "Lower the learning rate, raise objective.*.eps, or set train.nonfinite to skip."
NEVER = "Look whether the teacher's weights and the data are finite, lower the learning rate, or use fp32."


@attrs.frozen(kw_only=True)
class Action:
    """Something that is done every so many steps, such as an evaluation.

    Attributes:
        every: Steps between runs; 0 for never.
        run: Takes the number of finished steps; returns scalars for the log.
    """

    every: int
    run: Callable[[int], Mapping[str, float]]

    def due(self, step: int) -> bool:
        """Whether it is done after so many steps."""
        return self.every > 0 and step % self.every == 0


class Engine:
    """Trains the parts of an objective.

    Args:
        objective: Parts and phases.
        feeds: Where the batches of each stream come from.
        train: Length and precision.
        folder: The run folder.
        seed: Seed of every draw.
        device: Where to train.
        origin: What the run is made of: digests of what is not trained (``frozen``), versions of ``plugins``.
        ranks: The processes that train together.
    """

    def __init__(
        self,
        objective: Objective,
        feeds: Mapping[Stream, Feed],
        train: Train,
        *,
        folder: Folder,
        seed: int,
        device: torch.device,
        origin: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        ranks: Ranks = ALONE,
    ) -> None:
        self.objective, self.train, self.ranks = objective, train, ranks
        self.folder, self.seed, self.device = folder, seed, device
        self.metrics = Log(folder, NAME)
        self.origin = {key: dict(origin.get(key, {})) for key in ("frozen", "plugins")}
        cast_frozen(objective, train.frozen_dtype)
        for module in (*objective.frozen().values(), *(part.module for part in objective.parts().values())):
            module.to(device)
            if train.compile:
                compile_backbones(module)
        for part in objective.parts().values():
            ranks.spread(part.module)
        self.states = {name: PartState(name, part) for name, part in objective.parts().items()}
        self.phases = objective.phases()
        self.streams = streams(self.phases, feeds)
        self.feeds = feeds
        self.step = 0
        self.guard = FiniteGuard(device, stop=train.nonfinite == "stop")

    @property
    def skipped(self) -> int:
        """Updates that were not finite and not made."""
        return int(self.guard.count)

    @property
    def checkpoints(self) -> Folder:
        """Where checkpoints go."""
        return self.folder.sub("checkpoints")

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; False when there is none.

        Raises:
            CheckpointError: when checkpoints exist and none fits, or what is not trained has changed.
        """
        like = {name: tensors for state in self.states.values() for name, tensors in state.wanted().items()}
        found, metrics = load_newest(self.checkpoints, like, self.ranks), None
        if found is not None:
            manifest, files = found
            self._compare(manifest)
            for name, state in self.states.items():
                state.load({f: t for f, t in files.items() if f == name or f.startswith(f"{name}.")})
            load_heirs(self.objective, files)
            self.step = manifest["step"]
            self.guard.count.fill_(manifest["skipped"])
            for phase, count in manifest.get("in_a_row", {}).items():
                self.guard.in_a_row[phase] = torch.full_like(self.guard.count, count)
            metrics = manifest["metrics"]
        forget_metrics(self.folder, self.step, metrics)
        return found is not None

    def _compare(self, manifest: Mapping[str, Any]) -> None:
        """Refuse to train on with another teacher; name plugins that have changed."""
        if wrong := strangers(manifest, self.origin["frozen"]):
            raise CheckpointError(
                f"{self.folder.url}: the files that the run was started with have changed: the SHA-256 of "
                f"{', '.join(wrong)} is another. Bring the old ones back, or start a new run."
            )
        for what, was in manifest["plugins"].items():
            if (now := self.origin["plugins"].get(what, "missing")) != was:
                logger.warning("{} was {} up to step {}, and is {} now", what, was, manifest["step"], now)

    def save(self, name: str | None = None) -> None:
        """Write a checkpoint of the finished steps.

        Raises:
            NumericalError: instead, when an update since the last look was not finite.
        """
        if name is None:
            self._look()
        self.metrics.flush()
        files = {file: tensors for state in self.states.values() for file, tensors in state.state().items()}
        files |= heirs(self.objective)
        facts = {
            "step": self.step,
            "cursor": self.step * len(self.phases) * self.train.batch_size,
            "skipped": self.skipped,
            "in_a_row": {phase: int(count) for phase, count in self.guard.in_a_row.items()},
            "parts": sorted(self.states),
            "world_size": self.ranks.size,
            "metrics": metrics_facts(self.folder),
            **self.origin,
        }
        save_checkpoint(self.checkpoints, name or step_name(self.step), files, facts, self.ranks)
        if name is None:
            prune(self.checkpoints, self.train.keep_last, self.step)

    def run(
        self, actions: Sequence[Action] = (), sink: Callable[[int, Mapping[str, float]], None] | None = None
    ) -> None:
        """Train to the last step.

        Args:
            actions: What is done on the way.
            sink: Receives the scalars of each logged step, besides metrics.jsonl.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with the state saved.
            NumericalError: for a non-finite gradient, with the state saved under ``checkpoints/nonfinite_*``.
        """
        t, began = self.train, time.monotonic()
        with Stop() as stop, Progress(t.steps, self.step) as progress, self.metrics:
            while self.step < t.steps:
                watch = (self.step + 1) % t.log_every == 0 or self.step + 1 == t.steps
                scalars = self.take_step(watch)
                values = {name: float(value) for name, value in scalars.items()} if watch else {}
                for action in actions:
                    if action.due(self.step):
                        self.metrics.flush()
                        values |= action.run(self.step)
                if values:
                    values["seconds"] = round(time.monotonic() - began, 3)
                    write_metrics(self.metrics, self.step, values)
                    if sink is not None:
                        sink(self.step, values)
                if self.step % t.checkpoint_every == 0 or self.step == t.steps:
                    self.save()
                progress.advance(self.step, values)
                if self.ranks.any(bool(stop.requested)) and self.step < t.steps:
                    self.save()
                    by = stop.requested or "a signal to another process"
                    raise Interrupted(f"stopped by {by} after step {self.step}; state saved")

    def take_step(self, watch: bool = False) -> dict[str, Tensor]:
        """All phases once, then the averages; returns the scalars, those for the log where ``watch``."""
        scalars: dict[str, Tensor] = {}
        for place, (phase, stream) in enumerate(zip(self.phases, self.streams, strict=True)):
            batches = self.step * self.streams.count(stream) + self.streams[:place].count(stream)
            scalars |= self.run_phase(phase, self.feeds[stream], batches * self.train.batch_size, watch)
        for state in self.states.values():
            state.follow(self.step, self.guard.blocked & self.guard.stop)
        self.step += 1
        hand_over(self.objective, self.states, self.step)
        return scalars

    def run_phase(self, phase: Phase, feed: Feed, position: int, watch: bool) -> dict[str, Tensor]:
        """One update of the phase's parts on a feed's batch at ``position``; returns the logged scalars."""
        t, parts = self.train, [self.states[name] for name in phase.parts]
        for part in self.states.values():
            part.zero()
        scalars: dict[str, Tensor] = {}
        size = t.batch_size // t.accumulate
        share = self.ranks.share(size)
        draws = Draws(
            seed=self.seed, step=self.step, phase=phase.name, total=t.batch_size, device=self.device
        )
        valid = feed.valid(position, t.batch_size)
        for start in range(share.start, t.batch_size, size):
            batch = attrs.evolve(feed.read(position + start, len(share)), valid=valid)
            with self._dropout_seed(phase.name, start), arithmetic(t.precision, self.device):
                logs = phase.accumulate(batch, draws.slice(start, len(share)), watch=watch)
            add_to(scalars, logs)
        scalars = self.ranks.total(scalars)
        norms = {f"grad_norm_{part.name}": part.clip() for part in parts}
        losses = {name: value for name, value in scalars.items() if name.endswith("loss")}
        blocked = self.guard.check(self.step, phase.name, {**norms, **losses})
        for part in parts:
            part.update(self.step, t.steps, blocked)
        if (watch or self.device.type == "cpu") and (self.step, phase.name) in self._look():
            return {}
        return scalars | norms | {"skipped": self.guard.count}

    def _look(self) -> set[tuple[int, str]]:
        """Step and phase of the updates since the last look that were not finite; waits for the device.

        Raises:
            NumericalError: in that case, with the state before that update saved, unless it is to be skipped
                and some of the ``PATIENCE`` updates before it were made.
        """
        found = self.guard.read()
        for one in found:
            text = f"step {one.step}, phase {one.phase!r}: not finite: {', '.join(one.culprits)}"
            if self.train.nonfinite == "skip":
                row = int(self.guard.in_a_row[one.phase])
                if row < min(PATIENCE, self.train.steps):
                    logger.warning("{}; update skipped ({} so far)", text, self.skipped)
                    continue
                text = f"{text}; all of the last {row} updates were, and skipping them trains nothing"
            name = f"nonfinite_{one.step:06d}"
            self.step = one.step
            self.save(name)
            raise NumericalError(
                f"{text}. The weights before this update are saved in {self.checkpoints.path(name)}. "
                + (DIVERGED if self.train.nonfinite == "stop" else NEVER)
            )
        return {(one.step, one.phase) for one in found}

    @contextmanager
    def _dropout_seed(self, phase: str, start: int) -> Iterator[None]:
        """Dropout is the one consumer of torch's global generator: seed it by the step, and put it back."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # On a CPU this is torch.manual_seed, which also keeps a stack trace for devices that start later.
            seeded = torch.default_generator.manual_seed if not devices else torch.manual_seed
            seeded(stream_seed(self.seed, self.step, phase, "dropout", start))
            yield


def compile_backbones(module: nn.Module, **options: Any) -> None:
    """Compile the blocks of every backbone in a module, in place; names of parameters do not change.

    Blocks that are alike share a graph, whichever network and depth they belong to, so that compiling takes
    seconds where a whole network takes minutes. A backbone without blocks is compiled as a whole.

    Args:
        module: What holds the backbones.
        options: Further options of ``torch.compile``.
    """
    for inner in module.modules():
        if isinstance(inner, Backbone):
            for block in list(blocks(inner)) or [inner]:
                block.compile(dynamic=False, **options)
