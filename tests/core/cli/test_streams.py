"""Standard streams that cannot be written to cost what was written, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimo_core.cli import main

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
GOOD, BAD = ("--version",), ("plugins", "nothing")


def through_shell(words, streams, unbuffered=""):
    """``dimo`` with redirected streams: exit code, and what is left of its output."""
    return subprocess.run(
        f'"{sys.executable}" -m dimo_core {" ".join(words)} {streams}',
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.parametrize(("words", "code"), [(GOOD, 0), (BAD, 2)], ids=["good", "bad"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code_and_leave_no_traceback(toys, words, code, streams):
    done = through_shell(words, streams)
    assert code == done.returncode
    assert "Traceback" not in done.stderr + done.stdout
    assert ("nothing" in done.stderr) == (code == 2 and "2>&-" not in streams)


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_lost_is_an_error_in_one_line(toys, unbuffered):
    done = through_shell(GOOD, ">/dev/full", unbuffered)
    assert 1 == done.returncode
    assert "dimo: error: cannot write to stdout: No space left on device\n" == done.stderr


@needs_full
@pytest.mark.parametrize(("words", "code"), [(GOOD, 0), (BAD, 2)], ids=["good", "bad"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stderr_changes_no_exit_code(toys, words, code, unbuffered):
    done = through_shell(words, "2>/dev/full", unbuffered)
    assert (code, code == 0) == (done.returncode, done.stdout.startswith("dimo "))


@pytest.mark.slow
@needs_full
def test_a_run_whose_output_is_lost_is_finished_first(toys):
    words = "run --out run --steps 1 --batch-size 2 --eval.samples 10 --eval.batch_size 10 --device cpu"
    done = through_shell((*words.split(), "--eval.steps", "'[1]'"), ">/dev/full", "1")
    assert "dimo run: error: cannot write to stdout" in done.stderr
    assert 1 == done.returncode
    assert Path("run/report.html").exists()


def test_of_several_processes_the_first_one_speaks(toys, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert 0 == main(["plugins"])
        assert said == bool(capsys.readouterr().out)
