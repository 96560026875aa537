"""The engine's own options: everything about a run that is no plugin's business."""

from typing import Literal

import attrs
from attrs import validators as v

from dimo_core.limits import BATCH

Precision = Literal["fp32", "tf32", "bf16"]
"""How forward passes compute; trained weights are fp32 in each."""

FrozenDtype = Literal["fp32", "bf16"]
"""How weights are kept that are not trained."""


@attrs.frozen(kw_only=True)
class Train:
    """How long and how the parts are trained.

    Attributes:
        steps: Number of steps; every phase of the objective runs once a step.
        batch_size: Batch size B of an update, over all micro-batches.
        accumulate: Micro-batches a step; the gradient is that of the whole batch.
        precision: Arithmetic of the forward passes: fp32, tf32 (CUDA's rounded products), or bf16 (autocast);
            trained weights, optimiser and losses stay in fp32.
        frozen_dtype: Format of the weights that are not trained: those of the teacher, and with adapters the
            base that all networks share. bf16 halves them, and needs bf16 as precision of the run
            (``train.precision``) and of its table (``eval.precision``).
        shards: With several processes: over how many of them trained weights, gradients, averages and moments
            are split. 1 repeats all of them in each.
        compile: Compile the networks' blocks with torch.compile; evaluations and samples run eagerly.
        nonfinite: What a non-finite loss or gradient does: stop with an error after saving the state, or
            skip the update and count it (a hundred skipped in a row are an error all the same).
        log_every: Steps between lines of metrics.jsonl.
        checkpoint_every: Steps between checkpoints.
        keep_last: Checkpoints that are kept, besides the best.
        sample_every: Steps between grids of fixed draws; 0 for none but the last.
    """

    steps: int = attrs.field(default=1000, validator=v.ge(0))
    batch_size: int = attrs.field(default=64, validator=[v.gt(0), v.le(BATCH)])
    accumulate: int = attrs.field(default=1, validator=v.gt(0))
    precision: Precision = "fp32"
    frozen_dtype: FrozenDtype = "fp32"
    shards: int = attrs.field(default=1, validator=v.gt(0))
    compile: bool = False
    nonfinite: Literal["stop", "skip"] = "stop"
    log_every: int = attrs.field(default=10, validator=v.gt(0))
    checkpoint_every: int = attrs.field(default=500, validator=v.gt(0))
    keep_last: int = attrs.field(default=2, validator=v.gt(0))
    sample_every: int = attrs.field(default=500, validator=v.ge(0))

    def __attrs_post_init__(self) -> None:
        """Check that micro-batches divide the batch, and that networks of bf16 can compute.

        Raises:
            ValueError: if not.
        """
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")
        if self.frozen_dtype == "bf16" and self.precision != "bf16":
            raise ValueError(
                f"frozen_dtype bf16 needs precision bf16, got {self.precision}: no product takes fp32 beside "
                "bf16. Set precision to bf16, or frozen_dtype to fp32"
            )


@attrs.frozen(kw_only=True)
class Evaluate:
    """How the run is judged, at its end and on the way.

    Attributes:
        every: Steps between evaluations on the way; 0 for the end only. The best generator is kept in
            ``checkpoints/best``.
        samples: Samples for each row of the table; null takes the teacher's protocol.
        samples_on_the_way: Samples for evaluations on the way.
        steps: Step counts of the teacher's rows; null takes the teacher's protocol.
        samplings: The teacher's rows by named samplings of its own, instead of step counts.
        batch_size: Samples drawn at a time.
        precision: Arithmetic of the networks that draw for the table and for pictures: fp32, tf32 or bf16;
            tokens are decoded in fp32.
        enabled: False skips the table at the end.
    """

    every: int = attrs.field(default=0, validator=v.ge(0))
    samples: int | None = attrs.field(default=None, validator=v.optional(v.gt(1)))
    samples_on_the_way: int = attrs.field(default=1000, validator=v.gt(1))
    steps: tuple[int, ...] | None = None
    samplings: tuple[str, ...] = ()
    batch_size: int = attrs.field(default=500, validator=[v.gt(0), v.le(BATCH)])
    precision: Precision = "fp32"
    enabled: bool = True

    def __attrs_post_init__(self) -> None:
        """Check the teacher's rows.

        Raises:
            ValueError: if a step count is below 1, or step counts and samplings are given.
        """
        if self.steps and min(self.steps) < 1:
            raise ValueError(f"'steps' must be >= 1: {min(self.steps)}")
        if self.samplings and self.steps is not None:
            raise ValueError("samplings and steps both say what the teacher's rows are: give one of them")
