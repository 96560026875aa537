"""Progress: how far a run is, and how long the rest takes."""

import signal

import pytest
from loguru import logger

from dimo_core import progress as progress_module
from dimo_core.progress import NOTICES, Progress, Stop, interruptible


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress_module, "time", found)
    return found


@pytest.fixture
def lines():
    found = []
    sink = logger.add(lambda message: found.append(message.record["message"]), level="INFO")
    yield found
    logger.remove(sink)


def test_the_rest_takes_as_long_for_each_step_as_those_before(clock, lines):
    progress = Progress(10, interval=0.0)
    clock.now += 20
    progress.advance(4, {}, "row a")
    assert ["step 4/10  row a  0:30 left"] == lines


def test_steps_that_were_done_at_the_start_say_nothing_about_the_time_left(clock, lines):
    progress = Progress(10, done=3, interval=0.0)
    clock.now += 20
    progress.advance(5, {}, "row a")
    assert ["step 5/10  row a  0:50 left"] == lines


def test_steps_that_are_found_done_on_the_way_say_nothing_about_the_time_left(clock, lines):
    progress = Progress(10, interval=0.0)
    clock.now += 1
    progress.advance(4, {}, "a", found=4)
    clock.now += 9
    progress.advance(5, {}, "b")
    progress.advance(7, {}, "c", found=6)
    clock.now += 10
    progress.advance(8, {}, "d", found=6)
    progress.advance(10, {}, "e", found=6)
    assert [
        "step 4/10  a  -:-- left",
        "step 5/10  b  0:50 left",
        "step 7/10  c  0:30 left",
        "step 8/10  d  0:20 left",
        "step 10/10  e  0:00 left",
    ] == lines


def test_all_may_be_found_done(clock, lines):
    Progress(10).advance(10, {}, "a", found=10)
    assert ["step 10/10  a  0:00 left"] == lines


def test_a_bar_shows_the_same_estimate(clock, lines, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(10, interval=0.0)
    clock.now += 10
    progress.advance(7, {}, "a", found=5)
    (task,) = progress.bar.tasks
    assert (7, "0:15", "a") == (task.completed, task.fields["left"], task.description)
    assert "0:15 left" in "".join(
        str(column(task)) for column in progress.bar.columns if hasattr(column, "text_format")
    )
    assert [] == lines


@pytest.mark.parametrize("number", [signal.SIGINT, *NOTICES], ids=lambda number: number.name)
def test_every_signal_that_asks_for_an_end_is_a_request(lines, number):
    with interruptible(), Stop() as stop:
        signal.raise_signal(number)
        assert number.name == stop.requested
    assert [f"{number.name}: finishing this step, then saving; Ctrl-C then stops at once"] == lines


def test_batch_systems_warn_by_several_signals():
    assert {"SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} == {number.name for number in NOTICES}


def test_after_a_request_only_ctrl_c_stops_at_once():
    with Stop() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGXCPU, signal.SIGTERM):
            signal.raise_signal(number)
        assert "SIGUSR1" == stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_others_do_with_a_signal_stays_theirs():
    heard = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    other = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with interruptible(), Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR1)
        assert ("", [signal.SIGUSR1]) == (stop.requested, heard)
        assert signal.SIG_IGN == signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGUSR1, other)
