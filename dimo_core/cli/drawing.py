"""Options of commands that draw samples."""

import argparse
from typing import get_args

from dimo_core.cli.command import option
from dimo_core.settings import Precision


def positive(text: str) -> int:
    """An integer from 1 up; ``ValueError`` for anything else."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def device(to: argparse._ActionsContainer) -> None:
    """Add ``--device`` and ``--precision``."""
    option(to, "--device", "DEVICE", "auto, or a torch device (default: auto)", default="auto")
    how = "arithmetic of the networks: fp32; tf32, CUDA's rounded products; bf16, autocast (default: fp32)"
    to.add_argument("--precision", choices=get_args(Precision), help=how, default="fp32")
