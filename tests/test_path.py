"""How many files lie between `dimo run` and the first gradient: what a newcomer has to read stays little."""

import json
import subprocess
import sys
from pathlib import Path

ROOMS, FOLLOWED, EXECUTED = 33, 20, 54
"""Files of rooms in which a function ran; files that a reader of the calls opens; all, with the doors, which
define what the rooms speak of. In version 0.1, when all were in one folder, these were 31, 25 and 53; what
plugins offer has left the registry since, and is one file more."""


def test_the_way_to_the_first_gradient_is_short(tmp_path: Path) -> None:
    script = Path(__file__).with_name("path_to_gradient.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    rooms = [file for file in found["executed"] if "/" in file]
    for files, most in ((rooms, ROOMS), (found["followed"], FOLLOWED), (found["executed"], EXECUTED)):
        assert len(files) <= most, f"{len(files)} files, at most {most} may be:\n" + "\n".join(files)
        assert "method/step.py" in files
