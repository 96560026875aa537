"""How long a command takes to answer, and ``dimo run`` to its first step, as multiples of ``import torch``.

    python benchmarks/startup.py

Every turn starts each of them once, in a process of its own, so that whatever else the machine does slows
all of them alike; what counts is the ratio of the medians. ``--teacher NAME`` takes another teacher.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from statistics import median

FIRST = """
import os
from dimo_core.cli import main
from dimo_core.engine.loop import Engine
Engine.take_step = lambda *_, **__: os._exit(0)
main(["run", "--teacher", {teacher!r}, "--out", {out!r}])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--teacher", default="maskgit")
    given = parser.parse_args()
    answers = [["--help"], ["plugins"], ["run", "--help"], ["run", "--teacher", given.teacher, "--help"]]
    commands = {
        "import torch": ["-c", "import torch"],
        "import torch._dynamo": ["-c", "import torch._dynamo"],
    }
    commands |= {f"dimo {' '.join(words)}": ["-m", "dimo_core", *words] for words in answers}
    first = "dimo run, to its first step"
    seconds: dict[str, list[float]] = {name: [] for name in [*commands, first]}
    for turn in range(given.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            commands[first] = ["-c", FIRST.format(teacher=given.teacher, out=f"{folder}/run")]
            for name, words in commands.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], capture_output=True, check=True)
                if turn:  # the first turn fills the disk's cache, and Python's own
                    seconds[name].append(time.perf_counter() - began)
    base = median(seconds["import torch"])
    print("| process | seconds | against `import torch` |\n|---|--:|--:|")
    for name, each in seconds.items():
        print(f"| `{name}` | {median(each):.2f} | {median(each) / base:.2f} |")


if __name__ == "__main__":
    main()
