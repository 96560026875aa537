"""Registers the trackers ``csv``, ``tensorboard``, ``wandb``, ``trackio`` and ``several``."""

from dimo_core.hookspecs import Register, hookimpl

OFFERS = (
    ("csv", "csv_file:Csv", "a CSV file in the run folder", ""),
    ("tensorboard", "tensorboard:TensorBoard", "event files that TensorBoard reads", "dimo[tensorboard]"),
    ("wandb", "services:Wandb", "Weights & Biases, online or offline", "dimo[wandb]"),
    ("trackio", "services:Trackio", "trackio: local, with the interface of wandb", "dimo[trackio]"),
    ("several", "several:Several", "several trackers at once", ""),
)


@hookimpl
def dimo_register(register: Register) -> None:
    """Five trackers."""
    for name, target, summary, extra in OFFERS:
        register("tracker", name, f"dimo_trackers.{target}", summary=summary, extra=extra)
