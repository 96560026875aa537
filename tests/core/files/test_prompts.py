"""Prompt files, and the folder layouts that the scorers of GenEval and HPSv2 read."""

import json

import attrs
import pytest
from PIL import Image

from dimo_core.cli import main
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.prompts import PromptSet, read_prompts

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "0"},
    {"tag": "two_object", "include": [{"class": "dog", "count": 1}], "prompt": "1"},
]
"""In the form of GenEval's evaluation_metadata.jsonl; the prompts are classes of the embedded teacher."""


@pytest.fixture
def geneval(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in GENEVAL))
    return path


@pytest.fixture
def hpsv2(tmp_path):
    path = tmp_path / "benchmark_prompts.json"
    path.write_text(
        json.dumps({"anime": ["0", "1"], "concept-art": ["1"], "paintings": ["0"], "photo": ["1"]})
    )
    return path


def draw(out, *options):
    teacher = ["--teacher", "maskgit", "--sampling", "confidence", "--steps", "1", "--device", "cpu"]
    return main(["sample", *teacher, *map(str, options), "--out", str(out)])


def looked_at(path):
    with Image.open(path) as picture:
        return picture.format, picture.size


def test_text_has_one_prompt_a_line_and_empty_lines_are_none(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("﻿a red seven\n\n  a blue three \n", encoding="utf-8")
    assert ["a red seven", "a blue three"] == [prompt.text for prompt in read_prompts([str(path)])]


def test_the_ending_of_a_file_may_be_in_capitals(tmp_path):
    (tmp_path / "UP.TXT").write_bytes(b"\xef\xbb\xbfa cat\n")
    assert ["a cat"] == [prompt.text for prompt in read_prompts([f"{tmp_path}/UP.TXT"])]


def test_json_lines_keep_the_whole_object(geneval):
    prompts = read_prompts([str(geneval)])
    assert [("0", GENEVAL[0]), ("1", GENEVAL[1])] == [(p.text, p.record) for p in prompts]


def test_a_json_list_has_the_style_of_its_file_and_an_object_has_a_list_for_each(tmp_path, hpsv2):
    expected = [
        ("anime", 0, "0"),
        ("anime", 1, "1"),
        ("concept-art", 0, "1"),
        ("paintings", 0, "0"),
        ("photo", 0, "1"),
    ]
    assert expected == [(p.style, p.number, p.text) for p in read_prompts([str(hpsv2)])]
    for style, texts in json.loads(hpsv2.read_text()).items():
        (tmp_path / f"{style}.json").write_text(json.dumps(texts))
    files = [str(tmp_path / f"{style}.json") for style in ("anime", "concept-art", "paintings", "photo")]
    assert expected == [(p.style, p.number, p.text) for p in read_prompts(files)]


def test_only_line_feeds_end_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still one\ntwo", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"prompt": "one\u2028still one"}', encoding="utf-8")
    assert ["one\u2028still one", "two"] == [p.text for p in read_prompts([str(tmp_path / "a.txt")])]
    assert ["one\u2028still one"] == [p.text for p in read_prompts([str(tmp_path / "a.jsonl")])]


def test_a_server_that_fails_is_named():
    with pytest.raises(UsageError, match=r"no prompts in 'http://127\.0\.0\.1:1/a\.txt'"):
        read_prompts(["http://127.0.0.1:1/a.txt"])


def test_prompts_are_read_from_urls():
    Folder("memory://prompt-files").write("some.txt", b"one\ntwo\n")
    assert ["one", "two"] == [p.text for p in read_prompts(["memory://prompt-files/some.txt"])]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.txt", None, r"no prompts in .*gone\.txt'"),
        ("empty.txt", " \n", "it is empty"),
        (
            "wrong.jsonl",
            '{"prompt": "a"}\n{"text": "b"}\n',
            "line 2: expected an object with a text 'prompt'",
        ),
        ("wrong.jsonl", "a cat\n", "line 1: no JSON"),
        ("wrong.jsonl", "9" * 5000, "line 1: no JSON"),
        ("wrong.json", "[" * 100_000, "no JSON"),
        ("wrong.json", '{"anime": "a"}', "expected a list of prompts, or an object"),
        ("wrong.json", "3", "expected a list of prompts, or an object"),
        ("sh-000.tar", "a cat", r"none of the prompt files that are sampled: \.txt, \.jsonl"),
        ("wrong.ndjson", "a cat\n", "line 1: no JSON"),
        ("latin.txt", b"\xff\xfe\xfa", "UnicodeDecodeError"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name_and_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        read_prompts([str(tmp_path / name)])


def test_the_layout_of_geneval(tmp_path, geneval):
    out = tmp_path / "out"
    assert 0 == draw(out, "--prompts-from", geneval, "--each", 4, "--layout", "geneval")
    for place, record in enumerate(GENEVAL):
        assert record == json.loads((out / f"{place:05d}" / "metadata.jsonl").read_text())
        pictures = sorted((out / f"{place:05d}" / "samples").iterdir())
        assert [f"{k:05d}.png" for k in range(4)] == [picture.name for picture in pictures]
        assert [("PNG", (8, 8))] * 4 == [looked_at(picture) for picture in pictures]
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert 8 == len(lines)
    assert ("00001/samples/00002.png", "odd") == (lines[6]["file"], lines[6]["condition"])


def test_the_layout_of_hpsv2(tmp_path, hpsv2):
    out = tmp_path / "out"
    assert 0 == draw(out, "--prompts-from", hpsv2, "--layout", "hpsv2")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg"))
    expected = [
        "anime/00000.jpg",
        "anime/00001.jpg",
        "concept-art/00000.jpg",
        "paintings/00000.jpg",
        "photo/00000.jpg",
    ]
    assert expected == found
    assert ("JPEG", (8, 8)) == looked_at(out / "anime" / "00001.jpg")


def test_prompts_of_a_file_are_drawn_each_in_a_plain_folder(tmp_path, geneval):
    out = tmp_path / "out"
    assert 0 == draw(out, "--prompts-from", geneval, "--each", 2)
    assert ["00000.png", "00001.png", "00002.png", "00003.png", "grid.png", "samples.jsonl"] == sorted(
        path.name for path in out.iterdir()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--each", "2"], "--each goes with --prompts-from"),
        (["--layout", "geneval"], "--layout goes with --prompts-from"),
        (["--count", "3", "--prompts-from", "FILE"], "--count and --prompts-from"),
        (["--prompt", "even", "--prompts-from", "FILE"], "--conditions and --prompts-from"),
        (
            ["--prompts-from", "FILE", "--layout", "hpsv2"],
            "the layout 'hpsv2' takes one sample of each prompt, by style",
        ),
        (["--prompts-from", "FILE", "--layout", "coco"], "invalid choice: 'coco'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, geneval, capsys, options, message):
    given = [str(geneval) if option == "FILE" else option for option in options]
    assert 2 == draw(tmp_path / "out", *given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_geneval_needs_its_own_records(hpsv2):
    with pytest.raises(UsageError, match=r"evaluation_metadata\.jsonl"):
        PromptSet(prompts=read_prompts([str(hpsv2)]), layout="geneval")


def test_hpsv2_takes_one_sample_of_each_prompt(hpsv2):
    whole = PromptSet(prompts=read_prompts([str(hpsv2)]), layout="hpsv2")
    with pytest.raises(UsageError, match="one sample of each prompt"):
        attrs.evolve(whole, each=2)


def test_prompts_may_be_given_one_by_one(tmp_path):
    out = tmp_path / "out"
    assert 0 == draw(out, "--prompt", "even", "--prompt", "odd", "--count", "2")
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert ["even", "odd"] == [line["condition"] for line in lines]
