"""The grammar of the captions, and what training never shows."""

import json
import tarfile
from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.testing import check_options
from dimo_scenes.captions import (
    COLOURED,
    COLOURS,
    DIGITS,
    PLAIN,
    RELATIONS,
    TAGS,
    Caption,
    longest,
    parse,
    vocabulary,
)
from dimo_scenes.combinations import (
    Choices,
    colour_is_held_out,
    pair_is_held_out,
    phrasing_is_held_out,
    unseen,
)
from dimo_scenes.evaluation_prompts import (
    balanced_captions,
    chosen_captions,
    evaluation_captions,
    held_out_captions,
)
from dimo_scenes.make_prompts import COUNT, SHARDS, make_prompts
from dimo_scenes.prompts import ScenePrompts

TEXT = Conditioning(kind="text")


@st.composite
def captions(draw: st.DrawFn) -> Caption:
    digits = draw(st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True))
    coloured = draw(st.booleans())
    colours = [draw(st.integers(0, len(COLOURS) - 1)) for _ in digits] if coloured else []
    return Caption(
        digits=tuple(digits),
        colours=tuple(colours),
        phrasing=draw(st.integers(0, len(COLOURED if coloured else PLAIN) - 1)),
        relation=draw(st.integers(0, len(RELATIONS) - 1)) if len(digits) == 2 else 0,
    )


def training_texts(count: int = 6000) -> list[str]:
    return ScenePrompts().open(TEXT, seed=0).read(0, count)


@given(captions())
def test_a_caption_is_understood_as_what_was_said(caption: Caption) -> None:
    assert caption == parse(caption.text)


@given(captions())
def test_captions_use_the_words_of_the_vocabulary_and_no_more_than_the_longest(caption: Caption) -> None:
    words = caption.text.split()
    assert set(words) <= set(vocabulary())
    assert len(words) <= longest()


def test_the_longest_caption_has_seventeen_words_and_exists() -> None:
    said = "a seven that is red on the left and an eight that is blue on the right"
    assert 17 == longest() == len(said.split())
    assert said == parse(said).text


def test_the_vocabulary_is_34_lower_case_words_and_every_word_is_used() -> None:
    used = {word for text in training_texts() for word in text.split()}
    assert 34 == len(vocabulary())
    assert tuple(sorted(used)) == vocabulary()
    assert "".join(vocabulary()).islower()


@pytest.mark.parametrize(
    ("text", "tag", "digits", "colours", "order"),
    [
        ("a seven", "single_object", (7,), (), ""),
        ("an eight in red", "colors", (8,), (0,), ""),
        ("a three next to a nine", "two_object", (3, 9), (), ""),
        ("a blue three next to a green nine", "color_attr", (3, 9), (2, 1), ""),
        ("a three to the left of a nine", "position", (3, 9), (), "left of"),
        ("a green nine to the right of a blue three", "position", (9, 3), (1, 2), "right of"),
        ("the digit one on the right and the digit two on the left", "position", (1, 2), (), "right of"),
    ],
)
def test_captions_are_understood(
    text: str, tag: str, digits: tuple[int, ...], colours: tuple[int, ...], order: str
) -> None:
    caption = parse(text)
    assert (tag, digits, colours, order) == (caption.tag, caption.digits, caption.colours, caption.order)


@pytest.mark.parametrize(
    "text",
    [
        *("", "seven", "an seven", "a eight", "a red seven.", "A red seven", "a pink seven", "a seven\n"),
        *("a three and a three", "a red three and a nine", "a  seven", "a one and a two and a three"),
    ],
)
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="'a red seven'"):
        parse(text)


@given(captions())
def test_records_hold_what_the_caption_says_in_the_form_of_geneval(caption: Caption) -> None:
    record = caption.record()
    assert (caption.tag, caption.text) == (record["tag"], record["prompt"])
    assert [DIGITS[d] for d in caption.digits] == [entry["class"] for entry in record["include"]]
    colours = [entry["color"] for entry in record["include"] if "color" in entry]
    assert [COLOURS[c] for c in caption.colours] == colours
    assert bool(caption.order) == any("position" in entry for entry in record["include"])


def test_the_record_places_the_second_object_as_geneval_does() -> None:
    record = parse("a three to the left of a nine").record()
    expected = [
        {"class": "three", "count": 1},
        {"class": "nine", "count": 1, "position": ["right of", 0]},
    ]
    assert expected == record["include"]


def test_training_says_no_held_out_combination() -> None:
    texts = [*training_texts(), *shard_texts()]
    assert [text for text in texts if unseen(parse(text))] == []


def test_every_evaluation_prompt_has_exactly_one_unseen_combination() -> None:
    found = [caption for tag in TAGS for caption in evaluation_captions()[tag]]
    assert {1} == {len(unseen(caption)) for caption in found}
    sorts = {tag: {unseen(c)[0] for c in evaluation_captions()[tag]} for tag in TAGS}
    expected: dict[str, set[str]] = {
        "single_object": {"phrasing"},
        "two_object": {"pair"},
        "colors": {"colour"},
        "position": {"pair"},
        "color_attr": {"colour", "pair"},
    }
    assert expected == sorts
    colour = sum(unseen(c) == ("colour",) for c in evaluation_captions()["color_attr"])
    assert 2 * colour == len(evaluation_captions()["color_attr"])


def test_no_evaluation_prompt_is_a_training_prompt() -> None:
    evaluated = {caption.text for tag in TAGS for caption in evaluation_captions()[tag]}
    assert set() == evaluated & {*training_texts(), *shard_texts()}


def test_the_rules_hold_out_what_they_say() -> None:
    colours = [(d, c) for d, c in product(range(10), range(6)) if colour_is_held_out(d, c)]
    pairs = [(a, b) for a in range(10) for b in range(a) if pair_is_held_out(a, b)]
    phrasings = [(d, p) for d, p in product(range(10), range(4)) if phrasing_is_held_out(d, p)]
    assert (12, 9, 10) == (len(colours), len(pairs), len(phrasings))
    assert [2] * 6 == [sum(c == colour for _, c in colours) for colour in range(6)]
    assert all(pair_is_held_out(a, b) == pair_is_held_out(b, a) for a, b in product(range(10), repeat=2))


def test_training_shows_every_single_digit_colour_phrasing_and_relation_and_all_other_combinations() -> None:
    seen = [parse(text) for text in training_texts()]
    coloured = {pair for c in seen for pair in zip(c.digits, c.colours, strict=False)}
    pairs = {c.digits for c in seen if len(c.digits) == 2}
    choices = Choices()
    assert coloured == {(d, c) for d in range(10) for c in choices.colours(d)}
    assert pairs == set(choices.pairs())
    assert {(bool(c.colours), c.phrasing) for c in seen} == set(product((False, True), range(4)))
    assert set(range(len(RELATIONS))) == {c.relation for c in seen if len(c.digits) == 2}
    alone = {(c.digits[0], c.phrasing) for c in seen if c.tag == "single_object"}
    assert alone == {(d, p) for d in range(10) for p in choices.phrasings(d)}


@pytest.mark.parametrize(
    ("tag", "count"), [("single_object", 10), ("two_object", 96), ("colors", 48), ("position", 96)]
)
def test_the_shipped_prompts_are_those_of_the_rules(tag: str, count: int) -> None:
    assert chosen_captions(tag) == list(evaluation_captions()[tag])
    assert count == len(evaluation_captions()[tag])
    assert set(evaluation_captions()[tag]) <= set(held_out_captions(tag))


def test_balanced_prompts_take_the_tags_in_turn_and_begin_anew() -> None:
    found = balanced_captions(500)
    assert TAGS * 100 == tuple(caption.tag for caption in found)
    single = [caption for caption in found if caption.tag == "single_object"]
    assert single[:10] == single[10:20]
    assert [caption.text for caption in found] == ScenePrompts().balanced(TEXT, 500)


TEACHER = files("dimo_meissonic").joinpath("embedded")


NAMES = [f"prompts-{number:04d}.tar" for number in range(SHARDS)]


def shard_texts() -> list[str]:
    found = []
    for name in NAMES:
        with TEACHER.joinpath(name).open("rb") as file, tarfile.open(fileobj=file) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".txt")]
            found += [member.read().decode() for member in members if member is not None]
    return found


def test_the_shards_hold_training_captions_and_each_tag_as_training_does() -> None:
    captions = [parse(text) for text in shard_texts()]
    assert SHARDS * COUNT == len(captions)
    assert not any(unseen(caption) for caption in captions)
    shares = {tag: sum(caption.tag == tag for caption in captions) / len(captions) for tag in TAGS}
    expected = {tag: (2 if tag == "position" else 1) / 6 for tag in TAGS}
    assert expected == pytest.approx(shares, abs=0.02)


@pytest.mark.slow
def test_the_script_makes_the_shipped_files_byte_for_byte(tmp_path: Path) -> None:
    make_prompts(tmp_path)
    homes = dict.fromkeys([*NAMES, "held_out.txt"], TEACHER) | {"evaluation.jsonl": files("dimo_scenes")}
    for name, home in homes.items():
        assert home.joinpath(name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_evaluation_file_is_read_by_what_reads_genevals() -> None:
    text = files("dimo_scenes").joinpath("evaluation.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert set(TAGS) == {record["tag"] for record in records}
    assert records == [parse(record["prompt"]).record() for record in records]


@given(st.integers(0, 5000), st.integers(0, 40), st.integers(0, 3))
def test_the_stream_is_a_function_of_seed_and_position(start: int, count: int, seed: int) -> None:
    stream = ScenePrompts().open(TEXT, seed=seed)
    together = stream.read(start, count)
    half = count // 2
    assert together == stream.read(start, half) + stream.read(start + half, count - half)


def test_other_seeds_give_other_prompts() -> None:
    first, second = (ScenePrompts().open(TEXT, seed=seed).read(0, 50) for seed in (0, 1))
    assert first != second


def test_teachers_that_take_no_text_are_refused() -> None:
    labels = Conditioning(kind="label", classes=("a",))
    with pytest.raises(UsageError, match="'label'"):
        ScenePrompts().open(labels, seed=0)
    with pytest.raises(UsageError, match="'label'"):
        ScenePrompts().balanced(labels, 3)
    check_options(ScenePrompts())
