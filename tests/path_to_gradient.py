"""Files of `dimo_core` between `dimo run` and the first gradient: `python tests/path_to_gradient.py OUT`.

Two lists. *Followed* is what a reader opens who follows the calls: the functions that wait for one another
when the first gradient is pushed into z_theta, and every function that one of these has called until then.
*Executed* is every file of which any function ran. Bodies of modules and classes, comprehensions and made
methods are not functions that anybody reads.
"""

import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch._dynamo  # like what the command imports, it would take long while each call is noted

import dimo_core.jobs.distil
from dimo_core.cli import main

ROOT = str(Path(dimo_core.__file__).parent) + os.sep
COMMAND = "run --teacher maskgit --divergence jeffrey --beta 0.2 --steps 1 --train.batch_size 4"
OPTIONAL = "--train.sample_every 0 --eval.enabled false"
"""Pictures and evaluations are options, not the way to the gradient."""

OPTIMIZED = 0x1
"""Flag of code objects that are functions."""


def is_function(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(ROOT) and bool(code.co_flags & OPTIMIZED) and code.co_name[0] != "<"


def file_of(frame: FrameType) -> str:
    return frame.f_code.co_filename.removeprefix(ROOT)


class Trace:
    """Notes, for each function that has not returned yet, the files of the functions that it called."""

    def __init__(self) -> None:
        self.executed: set[str] = set()
        self.called: dict[int, set[str]] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or not is_function(frame):
            return
        if event == "return":
            self.called.pop(id(frame), None)
            return
        self.executed.add(file_of(frame))
        caller = frame.f_back
        while (
            caller is not None
            and caller.f_code.co_filename == frame.f_code.co_filename
            and not is_function(caller)
        ):
            caller = caller.f_back  # a comprehension of the function that calls
        if caller is not None and is_function(caller):
            self.called.setdefault(id(caller), set()).add(file_of(frame))

    def followed(self, frame: FrameType | None) -> set[str]:
        """Files of the functions that are waiting from ``frame`` up, and of what they called."""
        files: set[str] = set()
        while frame is not None:
            if is_function(frame):
                files |= {file_of(frame)} | self.called.get(id(frame), set())
            frame = frame.f_back
        return files


def files_until_the_first_gradient(out: str) -> dict[str, list[str]]:
    """Run the main command until something is differentiated."""
    trace, found, backward = Trace(), dict[str, set[str]](), torch.Tensor.backward

    class Reached(BaseException):
        pass

    def stop(*_: Any, **__: Any) -> None:
        sys.setprofile(None)
        found.update(followed=trace.followed(sys._getframe(1)), executed=trace.executed)
        raise Reached

    torch.Tensor.backward = stop  # type: ignore[method-assign]
    try:
        sys.setprofile(trace)
        main([*f"{COMMAND} {OPTIONAL} --out".split(), out])
    except Reached:
        pass
    finally:
        sys.setprofile(None)
        torch.Tensor.backward = backward  # type: ignore[method-assign]
    return {name: sorted(files) for name, files in found.items()}


if __name__ == "__main__":
    print(json.dumps(files_until_the_first_gradient(sys.argv[1]), indent=1))
