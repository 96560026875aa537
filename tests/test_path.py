"""How many files lie between `dimo run` and the first gradient: what a newcomer has to read stays little."""

import json
import subprocess
import sys
from pathlib import Path

EXECUTED, FOLLOWED = 36, 22


def test_the_way_to_the_first_gradient_is_short(tmp_path: Path) -> None:
    script = Path(__file__).with_name("path_to_gradient.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for name, most in (("executed", EXECUTED), ("followed", FOLLOWED)):
        files = found[name]
        assert len(files) <= most, f"{len(files)} files are {name}, at most {most} may be:\n" + "\n".join(
            files
        )
        assert "method/step.py" in files
