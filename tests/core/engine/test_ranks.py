"""Processes that train together take the steps that one would take, and read each other's checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import ranks_program as program  # noqa: E402

NEAR = 1e-9
CASES = ("maskgit/small/fast", "meissonic/small/paper", "lora/maskgit/small/fast", "masked-modelling/masked")
MORE = (*CASES, "maskgit/small/paper", "meissonic/small/fast", "lora/meissonic/small/paper", "dimo/dmd")


def launched(count: int, *words: str) -> None:
    """Run the program in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [*command, str(HERE / "ranks_program.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def checked(count: int, shards: int, folder: Path, names: tuple[str, ...]) -> None:
    """All that is promised, of so many processes."""
    for name in names:
        program.half(name, folder / "alone")
    launched(count, str(shards), str(folder), *names)
    found = json.loads((folder / "found.json").read_text())
    for name in names:
        found[name]["together, then alone"] = program.apart(
            program.all_steps(name, folder / "unused"), program.rest(name, folder / "together")
        )
    print(found)
    far = {name: apart for name, apart in found.items() if max(apart.values()) > NEAR}
    assert far == {}


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    checked(2, 2, tmp_path, CASES)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shards"), [(2, 1), (4, 1), (4, 2), (4, 4)])
def test_several_processes_train_as_one_does(tmp_path: Path, count: int, shards: int) -> None:
    checked(count, shards, tmp_path, MORE)
