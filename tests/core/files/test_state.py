"""Checksums of what is written to be read again: whatever is changed in a file is found."""

import json
from contextlib import suppress

import pytest
import yaml

from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.state import LINE, card_of

DATA = {"step": 3, "rate": 1e-05, "names": ["a", "ä"], "teacher": {"path": "/x"}, "none": None, "nan": "no"}


@pytest.fixture
def folder(tmp_path):
    made = Folder(str(tmp_path))
    made.write_json("a.json", DATA)
    made.write_yaml("a.yaml", DATA)
    return made


def test_what_was_written_is_read(folder):
    assert DATA == folder.read_json("a.json")
    assert DATA == folder.read_yaml("a.yaml") == yaml.safe_load(folder.read("a.yaml"))


@pytest.mark.parametrize("change", [("3", "4"), ('"step": 3,', ""), ('"a",', ""), ("checksum", "check")])
def test_changed_json_is_damaged(folder, change):
    text = folder.read("a.json").decode()
    assert change[0] in text
    folder.write("a.json", text.replace(*change).encode())
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        folder.read_json("a.json")


@pytest.mark.parametrize("text", ["", "[1]", "{}", "null", "[" * 100_000, json.dumps(DATA)])
def test_what_is_no_state_is_damaged(folder, text):
    folder.write("a.json", text.encode())
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        folder.read_json("a.json")


@pytest.mark.parametrize("bit", range(0, 8))
def test_a_flipped_bit_is_found_wherever_it_is(folder, bit):
    """But for a space between two entries, or in the first line of YAML, which say nothing."""
    for name in ("a.json", "a.yaml"):
        data, read = folder.read(name), folder.read_json if name == "a.json" else folder.read_yaml
        for place in range(len(LINE) if name == "a.yaml" else 0, len(data), 7):
            folder.write(name, data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with suppress(CheckpointError):
                assert {**DATA, "teacher": 0} == {**read(name), "teacher": 0}


def test_yaml_that_was_cut_at_any_line_is_damaged(folder):
    lines = folder.read("a.yaml").splitlines(keepends=True)
    for count in range(1, len(lines)):
        folder.write("a.yaml", b"".join(lines[:count]))
        with pytest.raises(CheckpointError, match=r"a\.yaml"):
            folder.read_yaml("a.yaml")


def test_the_section_teacher_may_be_edited_and_all_without_the_checksum(folder):
    text = folder.read("a.yaml").decode()
    folder.write("a.yaml", text.replace("/x", "/y").encode())
    assert "/y" == folder.read_yaml("a.yaml")["teacher"]["path"]
    edited = text.replace("step: 3", "step: 4")
    folder.write("a.yaml", edited.encode())
    with pytest.raises(CheckpointError, match=r"damaged, or was edited.*remove that line"):
        folder.read_yaml("a.yaml")
    folder.write("a.yaml", edited.partition("\n")[2].encode())
    assert 4 == folder.read_yaml("a.yaml")["step"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "card is unreadable"),
        ("2001-99-99", "card is unreadable"),
        ("x", "not a toy of the format 'dimo-toy/1'"),
        ("format: dimo-toy/2", "not a toy of the format"),
        ("format: dimo-toy/1", "lacks the entry 'names'"),
        ("{format: dimo-toy/1, names: a}", "is damaged at the entry 'names'"),
        ("{format: dimo-toy/1, names: []}", "lacks the entry 'sha256.x'"),
        ("{format: dimo-toy/1, names: [], sha256: 1}", "lacks the entry 'sha256.x'"),
    ],
)
def test_a_card_names_what_it_lacks(text, message):
    with pytest.raises(CheckpointError, match=message):
        card_of(text.encode(), "card", "dimo-toy/1", {"names": list, "sha256.x": str})
