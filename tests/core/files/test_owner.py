"""Owning a folder: one process writes to it, the others are told who that is."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import attrs
import pytest

from dimo_core.errors import StorageError, UsageError
from dimo_core.files import owner
from dimo_core.files.folder import OWNER, Folder
from dimo_core.files.owner import Owner, Proposed, owned, taken


def left_by(folder: Path, **changes: object) -> Path:
    """The record of an owner like this process, but for some fields."""
    folder.mkdir(exist_ok=True)
    record = folder / f"old{OWNER}"
    record.write_text(json.dumps(attrs.asdict(attrs.evolve(Owner.here(()), **changes))))
    return record


@pytest.fixture(autouse=True)
def _no_batch_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_a_folder_is_owned_without_a_trace(tmp_path: Path) -> None:
    for url in (str(tmp_path / "new"), str(tmp_path / "deep/er/new"), "memory://owned"):
        with owned(url) as folder:
            assert [] == folder.names()
            assert 1 == len(folder.names(ending=OWNER))
    assert [] == Folder("memory://owned").names(ending=OWNER)
    assert [] == list(tmp_path.iterdir())


def test_a_relative_folder_is_owned_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("new", "deep/er/new", "."):
        with owned(url):
            pass
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_was_there_or_is_filled_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "filled"):
        with owned(str(tmp_path / name)) as folder:
            if name == "filled":
                folder.write("a", b"")
    assert ["filled", "filled/a", "there"] == sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")
    )


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link/in", "x" * 300, "a/b\0c", "deep/" + "x" * 300, "file", "file/folder"):
        with pytest.raises(StorageError, match="cannot write"), owned(f"{tmp_path}/{name}"):
            pass
    assert ["file", "link"] == sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StorageError, match="cannot write"), owned(str(tmp_path / "link")) as folder:
        folder.write("a", b"")


@pytest.mark.parametrize("url", ["{}/a", "memory://both"])
def test_of_two_owners_the_second_is_told_the_first(tmp_path: Path, url: str) -> None:
    url = url.format(tmp_path)
    with owned(url) as folder:
        folder.write("a", b"")
        with pytest.raises(UsageError) as refused, owned(url):
            pass
    assert f"'{url}' is being written to by process {os.getpid()} on " in str(refused.value)
    assert 1 == len(str(refused.value).splitlines())
    with owned(url):
        pass


def test_of_many_that_begin_at_once_exactly_one_goes_on(tmp_path: Path) -> None:
    together, rounds = 4, 25
    start, end = Barrier(together, timeout=60), Barrier(together, timeout=60)

    def work(place: Path) -> bool:
        start.wait()
        with ExitStack() as stack:
            try:
                stack.enter_context(owned(str(place)))
            except UsageError:
                end.wait()
                return False
            end.wait()
            return True

    with ThreadPoolExecutor(together) as pool:
        for i in range(rounds):
            went_on = [pool.submit(work, tmp_path / str(i)) for _ in range(together)]
            assert 1 == sum(done.result() for done in went_on)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_shares_of_one_work_share_a_new_folder(tmp_path: Path) -> None:
    together, rounds = 4, 40
    start = Barrier(together, timeout=60)

    def work(place: Path, i: int) -> None:
        start.wait()
        with owned(str(place), "drawing", f"{i}") as folder:
            folder.append("log", "line\n")
            folder.write("a", b"b", durable=False)

    with ThreadPoolExecutor(together) as pool:
        for i in range(rounds):
            place = tmp_path / str(i)
            shares = [pool.submit(work, place, share) for share in range(together)]
            assert [None] * together == [done.exception() for done in shares]
            assert together * "line\n" == (place / "log").read_text()
            assert ["a", "log"] == sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("second", [(), ("drawing", "1"), ("other", "2")], ids=["whole", "same", "other"])
def test_a_share_goes_with_other_shares_of_the_same_work_only(
    tmp_path: Path, second: tuple[str, ...]
) -> None:
    with owned(str(tmp_path), "drawing", "1"):
        with owned(str(tmp_path), "drawing", "2"):
            pass
        with pytest.raises(UsageError, match="is being written to"), owned(str(tmp_path), *second):
            pass


@pytest.mark.parametrize("others", [{"born": "1"}, {"pid": 2**22 + 1}], ids=["pid used again", "dead"])
def test_an_owner_that_has_ended_is_taken_over_and_that_is_said(
    tmp_path: Path, others: dict[str, object], told: list[str]
) -> None:
    record = left_by(tmp_path, since="yesterday", **others)
    with owned(str(tmp_path)):
        assert not record.exists()
    (line,) = told
    assert f"'{tmp_path}' is taken over from process " in line
    assert "since yesterday, which has ended without a word" in line


def test_a_child_that_nobody_waited_for_has_ended(tmp_path: Path, told: list[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    left_by(tmp_path, pid=child.pid, born="")
    with owned(str(tmp_path)):
        assert 1 == len(told)
    child.wait()
    child.stdout.close()


def test_an_owner_on_another_machine_is_named_with_its_file(tmp_path: Path) -> None:
    record = left_by(tmp_path, host="elsewhere", pid=7, since="noon")
    expected = r"process 7 on elsewhere, since noon\. .* has ended already, remove"
    with pytest.raises(UsageError, match=expected) as no, owned(str(tmp_path)):
        pass
    assert str(record) in str(no.value)
    assert record.exists()


BARE, HIDDEN = ("pid:[4026531836]", "uts:[4026531838]"), ("pid:[2]", "uts:[2]")


@pytest.mark.parametrize(
    ("then", "now", "ended"),
    [
        (("id", "b1", BARE), ("id", "b2", BARE), True),  # a restart
        (("id", "b1", BARE), ("other", "b2", BARE), False),  # another machine of this name
        (("", "b1", BARE), ("", "b2", BARE), False),  # nobody tells
        (("id", "b1", HIDDEN), ("id", "b1", ("pid:[3]", "uts:[3]")), True),  # a container was started anew
        (("id", "b1", HIDDEN), ("id", "b2", HIDDEN), False),  # of one image, on two machines
        (("id", "b1", ("pid:[2]", BARE[1])), ("id", "b1", ("pid:[3]", BARE[1])), False),  # two of a host
        (("id", "b1", BARE), ("id", "b1", ("pid:[2]", BARE[1])), False),  # one beside a process of its host
        (("id", "b1", BARE), ("id", "b1", HIDDEN), False),
        (("id", "b1", BARE), ("id", "b1", BARE), True),  # the same machine, without such a process
        (("id", "b1", HIDDEN), ("id", "b1", HIDDEN), True),
        (("", "", None), ("", "", None), True),  # no Linux: the name must do
    ],
)
def test_machines_of_one_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], then: Any, now: Any, ended: bool
) -> None:
    def on(identity: str, boot: str, spaces: tuple[str, str] | None) -> None:
        files = {"/etc/machine-id": identity, "/proc/sys/kernel/random/boot_id": boot}

        def link(path: str) -> str:
            if spaces is None:
                raise FileNotFoundError(path)
            return spaces[path.endswith("uts")]

        monkeypatch.setattr(owner, "_read", files.__getitem__)
        monkeypatch.setattr(os, "readlink", link)

    on(*then)
    record = left_by(tmp_path, pid=2**22 + 1)
    on(*now)
    if ended:
        with owned(str(tmp_path)):
            assert 1 == len(told)
        return
    with pytest.raises(UsageError, match="If it has ended already, remove"), owned(str(tmp_path)):
        pass
    assert record.exists()


def test_this_machine_is_itself() -> None:
    me = Owner.here(())
    assert me.is_seen_by(Owner.here(()))
    if Path("/proc/sys/kernel/random/boot_id").exists():
        assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in me.boot


def test_a_requeued_batch_job_takes_its_own_folder_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    left_by(tmp_path, host="elsewhere", requeued=["12", "0"])
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(UsageError, match="on elsewhere"), owned(str(tmp_path)):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owned(str(tmp_path)):
        assert 1 == len(told)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"host": 1}'])
def test_a_damaged_record_is_named_and_not_overruled(tmp_path: Path, content: str) -> None:
    left_by(tmp_path).write_text(content)
    expected = r"old\.owner' should tell who writes to this folder, and is damaged"
    with pytest.raises(UsageError, match=expected), owned(str(tmp_path)):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed_meanwhile_is_not_made_again(tmp_path: Path, again: bool) -> None:
    place = tmp_path / "run"

    def work() -> None:
        with owned(str(place)) as folder:
            folder.write("a/b", b"")
            place.rename(tmp_path / "elsewhere")
            if again:
                folder.sub("a").append("c", "")

    with pytest.raises(StorageError, match=f"'{place}' was removed, moved or taken over"):
        work()
    assert not place.exists()


def test_proposed_folders_are_taken_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/a-2").mkdir(parents=True)
    together = 6
    start, end = Barrier(together, timeout=60), Barrier(together, timeout=60)

    def work() -> str:
        start.wait()
        with taken(Proposed("runs/a-1")) as name:
            end.wait()
            Path(name, "file").write_text("")
            return name

    with ThreadPoolExecutor(together) as pool:
        names = [done.result() for done in [pool.submit(work) for _ in range(together)]]
    assert [f"runs/a-{i}" for i in (1, 3, 4, 5, 6, 7)] == sorted(names)
    with owned(Proposed("runs/b-1")) as folder:
        assert "runs/b-1" == folder.url
    assert not Path("runs/b-1").exists()


def test_a_proposed_folder_that_cannot_be_made_is_no_endless_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for blocks in (lambda: Path("runs").write_text(""), lambda: Path("runs").symlink_to("nowhere")):
        blocks()
        with pytest.raises(StorageError, match="cannot write 'runs/a-1'"), taken(Proposed("runs/a-1")):
            pass
        Path("runs").unlink()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_of_a_batch_system_gives_the_folder_back(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt), owned(str(tmp_path / "a")):
        signal.raise_signal(getattr(signal, name))
    assert [] == list(tmp_path.iterdir())
