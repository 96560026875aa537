"""``dimo push``: what goes to the Hub, that it goes whole or not at all, and what keeps it from going."""

import json
import sys
from pathlib import Path

import pytest

from dimo_core.cli import main
from dimo_core.errors import CheckpointError, MissingLibraryError, StorageError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.hub import Repository
from dimo_core.jobs.push import files_of, push

# The library's own call of its http client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

URL = "hf://me/digits"
FILES = ["README.md", "export.json", "generator.safetensors", "graph.json", "load.py"]


def test_an_export_goes_in_one_commit_with_nothing_that_lies_beside_it(hub, made):
    folder = made()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step.safetensors").write_bytes(b"state")
    (folder / "notes.txt").write_text("mine")
    pushed = push(str(folder), URL, create=True)
    (empty, files) = hub.commits["me/digits"]
    assert {} == empty
    assert FILES == sorted(files) == sorted(pushed.sizes)
    assert {name: (folder / name).read_bytes() for name in FILES} == files
    assert f"{hub.url}/me/digits/commit/{1:040x}" == pushed.commit
    assert 1 == sum("/commit/" in path for _, path in hub.asked)


def test_what_was_pushed_is_a_path_like_any_other(hub, made):
    push(str(made()), URL, create=True)
    folder = Folder(URL)
    assert b"weights" == folder.read("generator.safetensors")
    assert FILES == folder.names()
    assert folder.exists("export.json")
    assert not folder.exists("generator.yaml")
    assert b"weights" == Folder(f"{URL}@{1:040x}").read("generator.safetensors")
    with pytest.raises(StorageError, match=r"cannot look up 'hf://me/other/x'"):
        Folder("hf://me/other").exists("x")


def test_files_of_an_earlier_export_go_in_the_same_commit(hub, made):
    push(str(made("one", **{"pieces.json": b"[]"})), URL, create=True)
    hub.commits["me/digits"][-1]["MINE.md"] = b"kept"
    pushed = push(str(made("two", **{"model.onnx": b"onnx"})), URL)
    assert ("pieces.json",) == pushed.deleted
    assert sorted([*FILES, "MINE.md", "model.onnx"]) == sorted(hub.commits["me/digits"][-1])
    assert 3 == len(hub.commits["me/digits"])


@pytest.mark.parametrize("failing", ["/lfs", "/preupload", "/commit/"])
def test_a_push_that_fails_leaves_the_repository_as_it_was(hub, made, failing):
    hub.commits["me/digits"] = [{"README.md": b"before"}]
    hub.failing = failing
    with pytest.raises(StorageError, match=r"was not pushed .* It is as it was before"):
        push(str(made()), URL)
    assert [{"README.md": b"before"}] == hub.commits["me/digits"]


def test_a_dry_run_lists_all_and_asks_nobody(hub, made, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert 0 == main(["push", str(made()), URL, "--dry-run"])
    assert [] == hub.asked
    out = capsys.readouterr().out
    assert all(name in out for name in FILES)
    assert "5 files" in out
    assert "nothing was pushed to hf://me/digits" in out


def test_without_a_repository_nothing_is_made_unless_it_is_asked_for(hub, made):
    with pytest.raises(UsageError, match=r"no repository me/digits on .* --create makes it"):
        push(str(made()), URL)
    assert {} == hub.commits


def test_without_a_token_nobody_is_asked(hub, made, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=r"no token for .* `hf auth login`, or set HF_TOKEN"):
        push(str(made()), URL)
    assert [] == hub.asked


def test_a_token_that_may_not_write_is_named(hub, made, monkeypatch):
    hub.commits["me/digits"] = [{}]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UsageError, match=r"refuses to let the token write to me/digits \(403\)") as error:
        push(str(made()), URL)
    assert "hf_another" not in str(error.value)


def test_a_branch_that_is_not_there_is_named(hub, made):
    hub.commits["me/digits"] = [{}]
    with pytest.raises(UsageError, match=r"me/digits has no branch 'try'"):
        push(str(made()), f"{URL}@try")


def test_offline_is_told(hub, made, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StorageError, match=r"HF_HUB_OFFLINE is set"):
        push(str(made()), URL)
    assert [] == hub.asked


def test_a_hub_that_does_not_answer_is_told(hub, made, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's attempts
    with pytest.raises(StorageError, match=r"was not pushed .* when http://127.0.0.1:9 can be reached"):
        push(str(made()), URL)


def test_without_the_library_it_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'dimo\[hub\]'"):
        push(str(made()), URL)


@pytest.mark.parametrize(
    "url",
    ["me/digits", "hf://me", "hf://me/a/b", "hf://datasets/a", "s3://me/a", "hf://me/a@", "hf://me/a b"],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError, match=r"no repository of a model. Write hf://OWNER/NAME"):
        Repository.of(url)


def test_a_branch_is_part_of_an_address():
    assert Repository(name="me/a.b-c", branch="v1") == Repository.of("hf://me/a.b-c@v1")
    assert "hf://me/a@v1" == Repository(name="me/a", branch="v1").url


def test_a_file_that_changed_is_refused(made):
    folder = made()
    (folder / "graph.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"graph.json is missing, or not what was exported"):
        files_of(folder)


def test_a_list_that_names_other_files_is_refused(made):
    folder = made()
    facts = json.loads((folder / "export.json").read_text())
    facts["sha256"]["../secret"] = ""
    (folder / "export.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"lists '../secret', which is no file of an export"):
        files_of(folder)


@pytest.mark.parametrize("place", ["/home/somebody/teacher", "C:\\Users\\somebody", "/Users/somebody/x"])
def test_a_text_that_names_somebodys_folder_is_refused(made, place):
    folder = made()
    (folder / "README.md").write_text(f"# A generator\n\ntrained on {place}\n")
    with pytest.raises(UsageError, match=r"README.md, line 3, names a place on somebody's machine"):
        files_of(folder)


def test_the_home_folder_of_whoever_pushes_is_refused(made, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/data/somebody"))
    folder = made()
    (folder / "README.md").write_text("trained on /data/somebody/teacher\n")
    with pytest.raises(UsageError, match=r"line 1, names a place .*\(/data/somebody\)"):
        files_of(folder)


def test_a_path_of_an_address_is_none_of_a_machine(made):
    folder = made()
    (folder / "README.md").write_text("see https://example.org/home/somebody and a/home/b\n")
    assert "README.md" in files_of(folder)


def test_a_folder_without_anything_to_push_is_named(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    assert 2 == main(["push", str(tmp_path), URL, "--dry-run"])
    assert "nothing to push in" in capsys.readouterr().err


def test_a_licence_belongs_to_what_is_exported_now(made):
    with pytest.raises(UsageError, match=r"edit README.md"):
        push(str(made()), URL, licence="MIT", dry_run=True)
