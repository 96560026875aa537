"""What ``test_ranks`` looks at: commands, each in several processes, one after the other.

    python ranks_program.py < JSON

JSON maps names to ``[count, words, trouble]``; ``NAME.json`` tells exit codes and stderr of each. Trouble
comes to the last process, when it would draw its second batch: ``broken`` or ``stopped``, or none when empty.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from forked import forked

from dimo_core.cli import main
from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import Drawing

FAILURES = {"broken": UsageError("it broke"), "stopped": KeyboardInterrupt()}
HEAVY = ("jobs.compare", "jobs.sample", "config.sample")


def command(words: list[str], trouble: str, told: str) -> int:
    """A command in this process."""
    torch.set_num_threads(1)
    with open(told, "a") as file:
        os.dup2(file.fileno(), 2)
    if trouble and os.environ["RANK"] != "0":
        plain, drawn = Drawing._drawn, list[Any]()

        def failing(*given: Any) -> Any:
            drawn.append(given)
            if len(drawn) == 2:
                raise FAILURES[trouble]
            return plain(*given)

        Drawing._drawn = failing
    return main(words)


def all_commands() -> None:
    """One after the other; what fails hinders no other."""
    for module in (*(f"dimo_core.{name}" for name in HEAVY), "torch.distributed.fsdp", "matplotlib.figure"):
        import_module(module)  # once for all
    for name, (count, words, trouble) in json.load(sys.stdin).items():
        codes = forked(count, command, words, trouble, f"{name}.err")
        Path(f"{name}.json").write_text(json.dumps([codes, Path(f"{name}.err").read_text()]))


if __name__ == "__main__":
    all_commands()
