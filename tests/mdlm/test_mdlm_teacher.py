"""The teacher: what the core asks of it, its tokenizers, conditions, and rows of documents."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.sources import Examples
from dimo_core.testing import check_teacher
from dimo_mdlm.architecture import Architecture
from dimo_mdlm.files import published
from dimo_mdlm.network import MdlmNetwork
from dimo_mdlm.packing import packed, rows_of
from dimo_mdlm.pretraining import Pretraining
from dimo_mdlm.teacher import Mdlm, written_out
from dimo_mdlm.tokenizer import END, UNKNOWN, Characters, Tokenizer, read_tokenizer

DATA = Path(__file__).parents[1] / "data" / "mdlm"
VERSES = ("the cat\nsat", "on a mat", "a dog ran")
OPTIONS = Pretraining(width=16, depth=2, heads=2, conditioning=8, length=6)


def scrambled(teacher: Mdlm, folder: Path, **options: Any) -> Mdlm:
    """The teacher with random numbers in place of its zeros, read from a folder again."""
    network = teacher.network()
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data.normal_(generator=generator).mul_(0.3)
    teacher.save(str(folder), network, {})
    return Mdlm(checkpoint=str(folder), **options)


@pytest.fixture
def classes(tmp_path: Path) -> Mdlm:
    """A teacher of two classes, of characters."""
    examples = Examples(lines=VERSES, labels=torch.tensor([0, 0, 1]), classes=("cats", "dogs"))
    made = Mdlm.create(attrs.evolve(OPTIONS, time_conditioning=True), examples, evaluation=None, seed=0)
    return scrambled(made, tmp_path / "classes")


def test_the_conformance_kit(tmp_path: Path, classes: Mdlm) -> None:
    check_teacher(Mdlm(checkpoint=str(DATA)), ["text", "text"])
    check_teacher(Mdlm(checkpoint=str(DATA), length=7, gradient_checkpointing=True), [0, 0])
    check_teacher(classes, ["dogs", 0])


def test_checkpointing_changes_no_gradient(classes: Mdlm) -> None:
    grads = []
    for again in (False, True):
        network = attrs.evolve(classes, gradient_checkpointing=again).network().train()
        torch.manual_seed(0)
        z = network.logits(torch.arange(12).view(2, 6) % 5, torch.tensor([0, 1]), mask_ratio=torch.ones(2))
        z.square().sum().backward()
        grads.append([p.grad for p in network.parameters()])
    assert all(map(torch.equal, *grads))


def test_the_class_and_the_share_of_masks_are_heard(classes: Mdlm) -> None:
    network, x = classes.network(), torch.zeros(1, 6, dtype=torch.long)

    def z(c: int, ratio: float) -> Tensor:
        return network.logits(x, torch.tensor([c]), mask_ratio=torch.tensor([ratio]))

    assert not torch.allclose(z(0, 0.5), z(1, 0.5))
    assert not torch.allclose(z(0, 0.5), z(2, 0.5))
    assert not torch.allclose(z(0, 0.5), z(0, 0.9))
    assert torch.equal(z(0, 0.9995), z(0, 1.0))


def test_without_classes_any_call_is_of_the_class_text() -> None:
    teacher = Mdlm(checkpoint=str(DATA))
    assert {"create", "save"} == teacher.capabilities
    assert torch.equal(torch.zeros(2).long(), teacher.encode_conditions(["text", 0]))
    with pytest.raises(UsageError, match=r"no classes, and so no null class: use --guidance.scale 1"):
        teacher.null_condition(torch.zeros(2).long())


def test_a_new_network_is_the_identity_and_says_nothing() -> None:
    sizes = {"width": 8, "depth": 1, "heads": 2, "conditioning": 4, "codes": 5, "length": 3, "dropout": 0.0}
    network = MdlmNetwork(Architecture(**sizes))
    x, ratio = torch.tensor([[0, 5, 2]]), torch.ones(1)
    z = network.logits(x, torch.zeros(1).long(), mask_ratio=ratio)
    assert torch.equal(torch.zeros(1, 3, 5), z)
    e = network.embed(x)
    seen: list[Tensor] = []
    network.blocks[0].register_forward_hook(lambda _m, _a, out: seen.append(out))
    network(x, torch.zeros(1).long(), mask_ratio=ratio)
    assert torch.equal(e, seen[0])
    assert float(e.detach().abs().max()) <= 8**-0.5


def test_creation_repeats_and_class_embeddings_are_there_for_several_classes_alone() -> None:
    examples = Examples(lines=VERSES, labels=torch.zeros(3).long(), classes=("text",))
    made = [Mdlm.create(OPTIONS, examples, evaluation=None, seed=s) for s in (0, 0, 1)]
    states = [teacher.network().state_dict() for teacher in made]
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    assert not all(torch.equal(t, states[2][name]) for name, t in states[0].items())
    assert [] == [name for name in states[0] if name.startswith("label_embed")]
    assert ("text",) == made[0].conditioning.classes
    with pytest.raises(
        ValueError, match=r"'heads' must divide the width into multiples of 2: 3 heads, --model"
    ):
        attrs.evolve(OPTIONS, heads=3)
    with pytest.raises(UsageError, match=r"learns texts, and these examples are none"):
        Mdlm.create(OPTIONS, Examples(tokens=torch.zeros(1, 6).long()), evaluation=None, seed=0)


@given(st.lists(st.text(), min_size=1))
def test_characters_come_back(texts: list[str]) -> None:
    tokenizer = Characters.fitted([*texts, "ab"])
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert text == tokenizer.decode(ids.tolist())
    again = Characters.parsed(tokenizer.files["characters.json"], "here")
    assert tokenizer.signs == again.signs


def test_unknown_characters_become_the_one_that_stands_for_them_or_are_named() -> None:
    tokenizer = Characters.fitted(["ab"])
    assert ("", UNKNOWN, "a", "b") == tokenizer.signs
    assert f"a{UNKNOWN}b{END}" == tokenizer.decode([*tokenizer.encode(["axb"])[0].tolist(), tokenizer.end])
    with pytest.raises(UsageError, match=r"the character 'x' is none of the teacher's 2"):
        Characters(("a", "", "b")).encode(["ax"])


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("{", "Expecting"),
        ('{"a": 1}', "it is no list of texts"),
        ('["", "ab", "c"]', "else single characters"),
        ('["a", "b", "c"]', 'needs an empty text ""'),
        ('["", "b", "b"]', "none may be there twice"),
    ],
)
def test_a_wrong_list_of_characters_is_told(listed: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "characters.json").write_text(listed)
    with pytest.raises(CheckpointError, match=f"characters.json is no list of characters: .*{reason}"):
        read_tokenizer(str(tmp_path))


@pytest.mark.parametrize("layout", ["", "whole"])
def test_byte_pairs_of_local_files(layout: str, byte_pairs: Path) -> None:
    tokenizer = read_tokenizer(str(byte_pairs / layout))
    assert tokenizer is not None
    text = "the cat sat é 猫\n on it"
    (ids,) = tokenizer.encode([text])
    assert text == tokenizer.decode(ids.tolist())
    assert len(tokenizer.encode(["the cat sat on the mat."])[0]) < 12
    assert "x<|endoftext|>" == tokenizer.decode([*tokenizer.encode(["x"])[0].tolist(), tokenizer.end])
    assert (272, True) == (tokenizer.codes, tokenizer.framed)


def test_both_layouts_make_the_same_tokens(byte_pairs: Path) -> None:
    one, other = (read_tokenizer(str(byte_pairs / layout)) for layout in ("", "whole"))
    assert one is not None
    assert other is not None
    for text in ("the dog  sat.", "it's 42!", "\t\n "):
        assert torch.equal(one.encode([text])[0], other.encode([text])[0])


def test_a_tokenizer_that_is_not_whole_or_damaged_is_told(byte_pairs: Path, tmp_path: Path) -> None:
    assert read_tokenizer(str(tmp_path)) is None
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"vocab.json is there, and merges.txt beside it is missing"):
        read_tokenizer(str(tmp_path))
    (tmp_path / "merges.txt").write_text("a b")
    damaged = read_tokenizer(str(tmp_path))
    assert damaged is not None
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* is damaged"):
        damaged.encode(["x"])
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    bare = read_tokenizer(str(tmp_path))
    assert bare is not None
    with pytest.raises(CheckpointError, match=r"has no token <\|endoftext\|>"):
        bare.end  # noqa: B018


def test_without_the_library_the_error_says_what_to_install(
    byte_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = read_tokenizer(str(byte_pairs))
    assert tokenizer is not None
    with pytest.raises(MissingLibraryError, match=r"needs the library 'tokenizers'.*'dimo\[text\]'"):
        tokenizer.encode(["x"])


def test_a_teacher_without_tokenizer_shows_numbers_and_reads_no_text() -> None:
    teacher = Mdlm(checkpoint=str(DATA))
    x = torch.arange(12)[None]
    assert (" ".join(map(str, range(12))),) == teacher.preview(x, torch.zeros(1).long()).lines
    with pytest.raises(UsageError, match=r"has no tokenizer, and text is to be read.*--teacher.tokenizer"):
        teacher.packed(Examples(lines=("a",)))


def test_a_tokenizer_of_another_size_is_refused(byte_pairs: Path) -> None:
    teacher = Mdlm(checkpoint=str(DATA), tokenizer=str(byte_pairs))
    with pytest.raises(CheckpointError, match=r"has 272 tokens, and its network 29"):
        teacher.preview(torch.zeros(1, 12).long(), torch.zeros(1).long())


def test_samples_are_shown_on_one_line(classes: Mdlm) -> None:
    examples = classes.packed(Examples(lines=("the cat\nsat",), labels=torch.tensor([0]), classes=("cats",)))
    lines = classes.preview(examples.tokens[:2], examples.labels[:2]).lines
    assert ("the ca", r"t\nsat" + END) == lines
    assert r"a\tb\x07 é" == written_out("a\tb\x07 é")


class Numbers(Tokenizer):
    """One id a digit; 9 ends a document."""

    codes, end, files = 10, 9, {}

    def __init__(self, framed: bool) -> None:
        self.framed = framed

    def encode(self, texts: Any) -> list[Tensor]:
        return [torch.tensor([*map(int, text)], dtype=torch.long) for text in texts]

    def decode(self, ids: Any) -> str:
        return "".join(map(str, ids))


def test_documents_joined_and_cut_within_their_class() -> None:
    lines, labels = ("123", "55", "4", "666"), torch.tensor([0, 1, 0, 1])
    examples = Examples(lines=lines, labels=labels, classes=("a", "b"))
    found = packed(examples, 4, Numbers(False))
    assert [[1, 2, 3, 9], [5, 5, 9, 6]] == found.tokens.tolist()
    assert [0, 1] == found.labels.tolist()
    found = packed(examples, 4, Numbers(True))
    assert [[9, 1, 2, 9], [9, 3, 9, 9], [9, 4, 9, 9], [9, 5, 5, 9]] == found.tokens.tolist()[:4]
    assert ("a", "b") == found.classes


def test_rows_of_the_published_length() -> None:
    rows = rows_of(torch.zeros(3000, dtype=torch.long), 1024, Numbers(True))
    assert (2, 1024) == rows.shape
    assert {9} == {*rows[:, 0].tolist(), *rows[:, -1].tolist()}
    assert not bool(rows[:, 1:-1].any())


def test_too_little_text_and_other_conditions_are_told() -> None:
    few = Examples(lines=("12", "3456"), labels=torch.tensor([0, 1]), classes=("a", "b"))
    with pytest.raises(UsageError, match=r"the texts of class 'a' have 3 tokens, too few for one row of 4"):
        packed(few, 4, Numbers(False))
    with pytest.raises(UsageError, match=r"takes no condition but a class, and these texts have others"):
        packed(Examples(lines=("12345",), texts=("x",)), 4, Numbers(False))


def test_what_is_tokens_already_stays_as_it_is(classes: Mdlm) -> None:
    examples = Examples(tokens=torch.zeros(2, 6).long(), labels=torch.tensor([0, 1]))
    assert classes.packed(examples) is examples


def test_a_folder_has_its_tokenizer_and_a_changed_one_is_refused(classes: Mdlm) -> None:
    folder = Path(classes.checkpoint or "")
    assert json.loads((folder / "characters.json").read_text())[0] == ""
    classes.check()
    (folder / "characters.json").write_text('["", "x", "y"]')
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 is not that of teacher"):
        Mdlm(checkpoint=str(folder)).preview(torch.zeros(1, 6).long(), torch.zeros(1).long())


def test_a_published_student_is_read_as_a_generator(
    publish: Callable[..., Path], state: dict[str, Tensor]
) -> None:
    teacher = Mdlm(checkpoint=str(DATA))
    twice = {f"backbone.{name}": 2 * t if "inv_freq" not in name else t for name, t in state.items()}
    found = teacher.read_network(str(publish(twice)))
    assert found is not None
    own = teacher.network().state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(2 * own[name], found[name]) for name in own)
    assert teacher.read_network(str(DATA.parent)) is None
    assert {name for name in published(own, teacher.architecture)} == set(state)


def test_every_preset_and_sampling_has_a_name() -> None:
    assert "idlm" == next(iter(Mdlm().recipes()))
    assert {"ancestral-1024", "ancestral-16"} < set(Mdlm().samplings())
