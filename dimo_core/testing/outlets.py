"""Trackers and commands: what goes out of dimo."""

from pathlib import Path

import torch

from dimo_core.command import Command
from dimo_core.files.images import image_png
from dimo_core.testing.expectations import explained, explains, require
from dimo_core.testing.options import check_options
from dimo_core.tracker import Tracker


@explains
def check_tracker(tracker: Tracker, folder: Path) -> None:
    """A run that begins, logs and ends, and the same run resumed.

    Args:
        tracker: Its service must be at hand, or off.
        folder: An empty folder, such as ``tmp_path``.
    """
    check_options(tracker)
    picture, name = folder / "grid.png", type(tracker).__qualname__
    pixel = image_png(torch.zeros(1, 1, 1, dtype=torch.uint8))
    picture.write_bytes(pixel)
    for first in (1, 3):
        with explained(f"{name} takes a run, new or resumed: start, scalars, picture, finish"):
            tracker.start(str(folder), {"seed": 0, "teacher": {"name": "toy"}, "out": None})
            for step in (first, first + 1):
                tracker.scalars(step, {"loss": 1.5 / step, "eval/fid": float("nan")})
            tracker.picture(first + 1, "samples", str(picture))
            tracker.finish()
    require(picture.read_bytes() == pixel, f"{name} changes no picture")


@explains
def check_command(command: Command) -> None:
    """It runs, and what it returns is text.

    Args:
        command: With options that let it end soon.
    """
    check_options(command)
    found = command.run()
    require(
        isinstance(found, str), f"{type(command).__qualname__}.run returns text, not {type(found).__name__}"
    )
