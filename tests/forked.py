"""Several processes of one job, as a launcher starts them, but forked: libraries are imported once.

``python forked.py`` runs commands of dimo so, one after the other: it reads the words of each as a line of
JSON, and answers with exit code, stdout and stderr.
"""

import json
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

CONTEXT = multiprocessing.get_context("fork")


def forked(count: int, do: Callable[..., Any], *given: Any) -> list[int | None]:
    """Exit codes of so many processes; like a launcher, the others are ended when one of them fails.

    Nothing may be computed in the process that calls this: threads of libraries do not survive.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    places = [(rank, count, port) for rank in range(count)]
    processes = [CONTEXT.Process(target=_started, args=(place, do, given)) for place in places]
    for process in processes:
        process.start()
    left = list(processes)
    while left:
        wait([process.sentinel for process in left])
        if any(process.exitcode for process in left):
            for process in left:
                process.join(5)
                process.kill()
        left = [process for process in left if process.exitcode is None]
    return [process.exitcode for process in processes]


def _started(place: tuple[int, int, int], do: Callable[..., Any], given: tuple[Any, ...]) -> None:
    rank, count, port = map(str, place)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    sys.exit(do(*given))


def _command(words: list[str], files: list[int]) -> int:
    from dimo_core.cli import main

    for number, file in enumerate(files, 1):
        os.dup2(file, number)
    return main(words)


def _serve() -> None:
    import dimo_core.jobs.distil
    import dimo_core.jobs.sample  # noqa: F401  # imported before anything forks

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            codes = forked(1, _command, json.loads(line), [out.fileno(), err.fileno()])
            told = [file.seek(0) or file.read() for file in (out, err)]
        print(json.dumps([*codes, *told]), flush=True)


if __name__ == "__main__":
    _serve()
