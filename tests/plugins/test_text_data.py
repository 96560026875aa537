"""Text from files and shards: documents, classes, parts, and what is wrong with them in one line."""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from dimo_core.errors import MissingLibraryError, UsageError
from dimo_core.suggestions import EvaluationPlan
from dimo_core.testing import check_options
from dimo_text.files import TextFiles
from dimo_text.shards import TextShards


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.txt").write_text(text)
    return folder


def tar(path: Path, members: dict[str, str | bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, text in members.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def test_a_file_is_a_document_and_its_folder_its_class(tmp_path: Path) -> None:
    written(
        tmp_path, prose__a="One.", prose__deep__b="Two.\r\nThree.", verse__c="Four.\n\nFive.", verse__d=" \n"
    )
    data = TextFiles(path=str(tmp_path), held_out=0)
    check_options(data)
    examples = data.load("train")
    assert ("One.", "Two.\nThree.", "Four.\n\nFive.") == examples.lines
    assert [0, 0, 1] == examples.labels.tolist()
    assert ("prose", "verse") == examples.classes


def test_paragraphs_and_lines(tmp_path: Path) -> None:
    written(tmp_path, a="One\ntwo.\n \n\n\nThree.\n")
    paragraphs = TextFiles(path=str(tmp_path / "a.txt"), documents="paragraph", held_out=0).load("train")
    assert (("One\ntwo.", "Three."), ("text",)) == (paragraphs.lines, paragraphs.classes)
    lines = TextFiles(path=str(tmp_path / "*.txt"), documents="line", held_out=0).load("train")
    assert ("One", "two.", "Three.") == lines.lines


def test_classes_may_be_left_out(tmp_path: Path) -> None:
    written(tmp_path, x__a="1", y__b="2", c="3")
    examples = TextFiles(path=str(tmp_path), classes="none", held_out=0).load("train")
    assert (("3", "1", "2"), ("text",)) == (examples.lines, examples.classes)
    with pytest.raises(
        UsageError, match=r"c.txt has no class, and others have, such as 'x': give all documents"
    ):
        TextFiles(path=str(tmp_path)).load("train")


def test_other_file_systems() -> None:
    fsspec.filesystem("memory").pipe("/books/prose/a.txt", "É.".encode())
    examples = TextFiles(path="memory://books", held_out=0).load("train")
    assert (("É.",), ("prose",)) == (examples.lines, examples.classes)


def test_the_parts_are_apart_whole_and_of_every_class(tmp_path: Path) -> None:
    many = {f"{kind}__{i}": f"{kind} {i}" for kind in ("a", "b") for i in range(20)}
    written(tmp_path, **many, c__0="c 0", c__1="c 1", d__0="d 0")
    train, held = (TextFiles(path=str(tmp_path)).load(split) for split in ("train", "held-out"))
    assert not {*train.lines} & {*held.lines}
    assert {*many.values(), "c 0", "c 1", "d 0"} == {*train.lines, *held.lines}
    assert [2, 2, 1, 0] == held.labels.bincount(minlength=4).tolist()
    assert train.classes == held.classes
    other = TextFiles(path=str(tmp_path), seed=1).load("held-out")
    assert held.lines != other.lines
    again = TextFiles(path=str(tmp_path)).load("held-out")
    assert held.lines == again.lines


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no text in .*: expected files that end with .txt"):
        TextFiles(path=str(tmp_path)).load("train")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"cannot read the text .*a.txt.*It must be a file in UTF-8"):
        TextFiles(path=str(tmp_path)).load("train")
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(
        UsageError, match=r"the split 'held-out' of 1 documents is empty.*paragraphs or lines"
    ):
        TextFiles(path=str(tmp_path)).load("held-out")
    with pytest.raises(UsageError, match=r"no split 'test'. Known: train, held-out"):
        TextFiles(path=str(tmp_path)).load("test")
    with pytest.raises(UsageError, match=r"cannot look up '.*nowhere'|no file|cannot read the text"):
        TextFiles(path=str(tmp_path / "nowhere")).load("train")


def test_samples_of_tar_files(tmp_path: Path) -> None:
    members = {"a.txt": "One.", "a.cls": "x\n", "a.png": b"\xff", "b.txt": "Two.\r\n", "b.cls": "y"}
    url = tar(tmp_path / "s.tar", members)
    examples = TextShards(url=url, label="cls", held_out=0).load("train")
    assert (("One.", "Two.\n"), [0, 1], ("x", "y")) == (
        examples.lines,
        examples.labels.tolist(),
        examples.classes,
    )
    assert ("text",) == TextShards(url=url, held_out=0).load("train").classes
    with pytest.raises(UsageError, match=r"s.tar, a: no member story; .*--data.field"):
        TextShards(url=url, field="story").load("train")
    with pytest.raises(UsageError, match=r"s.tar, a: no class in 'kind'.*--data.label"):
        TextShards(url=url, label="kind").load("train")


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_json_lines(name: str, tmp_path: Path) -> None:
    records = [{"text": "One.", "kind": 3}, {"text": "Two.", "kind": 4}]
    data = ("\n".join(map(json.dumps, records)) + "\n\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    examples = TextShards(url=str(tmp_path / "s.*"), label="kind", held_out=0).load("train")
    assert (("One.", "Two."), ("3", "4")) == (examples.lines, examples.classes)


def test_broken_shards_are_told(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"text": "One."}\n{"text": 2}\n')
    with pytest.raises(UsageError, match=r"s.jsonl, line 2: no text in the field 'text'"):
        TextShards(url=str(tmp_path / "s.jsonl")).load("train")
    (tmp_path / "s.jsonl").write_text('{"text": "One."}\n[]\n')
    with pytest.raises(
        UsageError, match=r"the shard .*s.jsonl cannot be read: ValueError: line 2 is no JSON obj"
    ):
        TextShards(url=str(tmp_path / "s.jsonl")).load("train")
    (tmp_path / "s.tar").write_bytes(b"no tar")
    with pytest.raises(UsageError, match=r"the shard .*s.tar cannot be read: ReadError"):
        TextShards(url=str(tmp_path / "s.tar")).load("train")
    with pytest.raises(
        UsageError, match=r"is no shard of text: its name ends with none of .tar, .tgz, .jsonl"
    ):
        TextShards(url=str(tmp_path / "s.csv")).load("train")


def test_parquet_is_read_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **how: Any) -> list[dict[str, str]]:
        asked.append((args, how))
        return [{"text": "One."}, {"text": "Two."}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    url = str(tmp_path / "s.parquet")
    assert ("One.", "Two.") == TextShards(url=url, held_out=0).load("train").lines
    assert [(("parquet",), {"data_files": [url], "split": "train", "streaming": True})] == asked


def test_parquet_for_real_where_the_library_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    url = str(tmp_path / "s.parquet")
    parquet.write_table(arrow.table({"text": ["One.", "Two."], "kind": ["x", "y"]}), url)
    examples = TextShards(url=url, label="kind", held_out=0).load("train")
    assert (("One.", "Two."), ("x", "y")) == (examples.lines, examples.classes)


def test_without_the_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingLibraryError, match=r"read by the library 'datasets'.*pip install 'dimo\[parquet\]'"
    ):
        TextShards(url=str(tmp_path / "s.parquet")).load("train")


def test_the_plan_names_the_same_data(tmp_path: Path) -> None:
    data = TextFiles(path=(str(tmp_path / "a"), "memory://b"), documents="line", seed=3)
    plan = EvaluationPlan.of_card(data.evaluation().as_dict(), "here")
    assert plan == data.evaluation()
    assert plan is not None
    assert plan.data is not None
    assert data == TextFiles(**plan.data.options)
    assert "text-files" == plan.data.name
