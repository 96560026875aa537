"""Pieces of words by a list: the longest first, and what is wrong with a list in one line."""

import json
from pathlib import Path

import pytest

from dimo_core.errors import CheckpointError
from dimo_core.sources import Examples
from dimo_mdlm.packing import packed
from dimo_mdlm.pretraining import Pretraining
from dimo_mdlm.teacher import Mdlm
from dimo_mdlm.tokenizer import END, UNKNOWN, Pieces, read_tokenizer

LIST = ["", UNKNOWN, "a", " a", " al", " all", "l", ".", "\n"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "pieces.json").write_text(json.dumps(LIST))
    return str(tmp_path)


def test_the_longest_piece_is_taken_and_comes_back(folder: str) -> None:
    tokenizer = read_tokenizer(folder)
    assert isinstance(tokenizer, Pieces)
    assert (9, 0, False) == (tokenizer.codes, tokenizer.end, tokenizer.framed)
    (ids,) = tokenizer.encode([" allal a.\n"])
    assert [" all", "a", "l", " a", ".", "\n"] == [LIST[i] for i in ids.tolist()]
    assert f" allal a.\n{END}" == tokenizer.decode([*ids.tolist(), 0])
    assert [1, 2, 1, 1] == tokenizer.encode(["ßa b"])[0].tolist()
    assert (0,) == tokenizer.encode([""])[0].shape


def test_a_new_teacher_takes_them_and_keeps_them(folder: str, tmp_path: Path) -> None:
    sizes = {"width": 16, "depth": 1, "heads": 2, "conditioning": 8, "length": 4}
    texts = Examples(lines=(" all a.", " al all"))
    made = Mdlm.create(Pretraining(**sizes, tokenizer=folder), texts, evaluation=None, seed=0)
    made.save(str(tmp_path / "saved"), made.network(), {})
    again = Mdlm(checkpoint=str(tmp_path / "saved"))
    rows = packed(texts, 4, read_tokenizer(folder))  # type: ignore[arg-type]
    assert [5, 3, 7, 0] == rows.tokens[0].tolist()  # type: ignore[index]
    assert rows.tokens.tolist() == again.packed(texts).tokens.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("[", "Expecting"),
        ('["", 1]', "it is no list of texts"),
        ('["", "a"]', "needs an empty text"),
        (json.dumps([UNKNOWN, "a"]), "needs an empty text"),
        (json.dumps(["", UNKNOWN]), "and pieces"),
        (json.dumps(["", UNKNOWN, "a", "a"]), "none of them twice"),
    ],
)
def test_a_wrong_list_is_told(listed: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "pieces.json").write_text(listed)
    with pytest.raises(CheckpointError, match=rf"pieces\.json is no list of pieces: .*{reason}"):
        read_tokenizer(str(tmp_path))
