"""Options of commands that draw samples."""

import argparse
from typing import Any, get_args

from dimo_core import limits
from dimo_core.cli.command import Parser, option
from dimo_core.errors import UsageError
from dimo_core.settings import Precision


def positive(text: str) -> int:
    """An integer from 1 up; ``ValueError`` for anything else."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def seed(text: str) -> int:
    """A seed, as those of configurations.

    Raises:
        UsageError: for anything else.
    """
    if not text.isdecimal() or int(text[:20]) > limits.WHOLE:
        raise UsageError(f"--seed: expected a whole number from 0 to {limits.WHOLE}, got {text[:40]!r}")
    return int(text)


def device(to: argparse._ActionsContainer) -> None:
    """Add ``--device`` and ``--precision``."""
    option(to, "--device", "DEVICE", "auto, or a torch device (default: auto)", default="auto")
    how = "arithmetic of the networks: fp32; tf32, CUDA's rounded products; bf16, autocast (default: fp32)"
    to.add_argument("--precision", choices=get_args(Precision), help=how, default="fp32")


def generator(to: Parser, name: str, **more: Any) -> None:
    """Add the argument ``name`` for a generator; it is stored as ``path``."""
    about = "generator folder, or the folder of a run that has one (path or URL)"
    to.add_argument("path", metavar=name, help=about, **more)


def own_way(to: argparse._ActionsContainer) -> None:
    """Add ``--temperature`` and ``--steps`` of a generator."""
    option(to, "--temperature", "T", "divides the logits (default: that of the generator)", type=float)
    option(to, "--steps", "N", "steps of a sample (default: those of the generator)", type=positive)
