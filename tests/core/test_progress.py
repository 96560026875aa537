"""Progress: how far a run is, and how long the rest takes."""

import pytest
from loguru import logger

from dimo_core import progress as progress_module
from dimo_core.progress import Progress


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
