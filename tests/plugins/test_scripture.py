"""The embedded text: its parts, its pieces, and what the reader and its metrics make of samples."""

import math
from collections import Counter
from importlib.resources import files

import pytest
import torch

from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.testing import check_options
from dimo_mdlm.embedded import Text
from dimo_mdlm.tokenizer import read_tokenizer
from dimo_text.measures import at_entropy
from dimo_text.scripture.books import BOOKS, KINDS
from dimo_text.scripture.data import SPLITS, Scripture, chapters, parts_of
from dimo_text.scripture.make_data import chapters_of, unpacked
from dimo_text.scripture.metric import ReadingMetrics, clustered, real_words, share_of_words, similarity
from dimo_text.scripture.pieces import UNKNOWN, encoded, pieces
from dimo_text.scripture.reader import CONTEXT, PADDING, ReaderNetwork, padded, read


def test_every_chapter_is_in_one_part_and_of_one_kind() -> None:
    data = Scripture()
    check_options(data)
    names = [chapter.name for chapter in chapters()]
    assert (1189, 66) == (len(set(names)), sum(map(len, BOOKS.values())))
    assert {name.partition(" ")[0] for name in names} == {book for books in BOOKS.values() for book in books}
    parts = [data.load(split) for split in SPLITS]
    assert 1189 == sum(map(len, parts))
    texts = [set(part.lines or ()) for part in parts]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    for part, share in zip(parts, (0.6, 0.3, 0.1), strict=True):
        assert part.classes == KINDS
        for kind, count in Counter(chapter.kind for chapter in chapters()).items():
            assert share * count == pytest.approx(int((part.labels == kind).sum()), abs=3)
    with pytest.raises(UsageError, match=r"data 'scripture' has no split 'train'\. Known: teacher, reader"):
        data.load("train")


def test_the_parts_can_be_made_again() -> None:
    assert [chapter.part for chapter in chapters()] == parts_of([chapter.name for chapter in chapters()])
    assert [0] * 5 != parts_of([chapter.name for chapter in chapters()], seed=1)[:5]


def test_the_text_is_that_of_its_source_in_small_letters() -> None:
    first = chapters()[0]
    assert "Ge 1" == first.name
    assert first.text.startswith("in the beginning god created the heaven and the earth. and the earth was")
    signs = {sign for chapter in chapters() for sign in chapter.text}
    assert signs == set(" !'(),-.:;?abcdefghijklmnopqrstuvwxyz")


def compressed(text: bytes) -> bytes:
    """As by compress(1), of single characters alone: nine bits each, the lowest first."""
    bits = sum(byte << 9 * i for i, byte in enumerate(text))
    return bits.to_bytes(-(-9 * len(text) // 8), "little")


def test_windows_of_the_carrier_are_unpacked_and_verses_joined() -> None:
    windows = [compressed(b"Holy Bible.\nGe1:1 In the  \nGe1:2 A"), compressed(b"nd.\nExo1:1 Now\n")]
    starts = [0x5C + 8, 0x5C + 8 + len(windows[0])]
    head = bytes(0x58) + b"".join(number.to_bytes(4, "big") for number in (2, *starts))
    text = unpacked(head + b"".join(windows))
    assert text == "Holy Bible.\nGe1:1 In the  \nGe1:2 And.\nExo1:1 Now\n"
    assert {"Ge 1": "In the And.", "Exo 1": "Now"} == chapters_of(text)


def test_the_reader_and_the_teacher_cut_text_alike() -> None:
    tokenizer = read_tokenizer(str(files("dimo_text") / "scripture"))
    assert tokenizer is not None
    text = chapters()[700].text
    assert encoded(text) == tokenizer.encode([text])[0].tolist()
    assert text == tokenizer.decode(encoded(text))
    assert 512 == len(pieces()) == tokenizer.codes
    assert [pieces().index(" the"), 0, UNKNOWN] == encoded(" the<|endoftext|>ß")


def test_perplexity_is_that_of_the_tokens_after_the_first() -> None:
    """A reader without weights but those of its norm finds all 512 pieces equally likely."""
    network = ReaderNetwork()
    with torch.no_grad():
        network.embedding.weight.zero_()
    found = read((" the lord said", " the"), network.eval())
    assert [[True, True], [False, False]] == found.counts.tolist()
    assert [[math.log(512)] * 2, [0, 0]] == [pytest.approx(row) for row in found.nll.tolist()]
    assert 512 == pytest.approx(found.perplexity)


def test_padding_changes_nothing_of_what_is_read() -> None:
    short, long = " and he said unto them", " " + "behold, the lord " * 30
    assert (CONTEXT, PADDING) == (padded((short, long)).shape[1], int(padded((short, long))[0, -1]))
    alone, beside = read((short,)), read((short, long))
    length = alone.nll.shape[1]
    torch.testing.assert_close(beside.nll[0, :length], alone.nll[0])
    torch.testing.assert_close(beside.features[0], alone.features[0])


def test_the_reader_knows_the_language_and_the_kinds() -> None:
    """Text that it never saw, the same words in another order, and one piece again and again."""
    held = Scripture().load("reference")
    texts = [(held.lines or ())[i][:180] for i in range(0, len(held), 2)]
    kinds = held.labels[::2]
    shuffled = [" ".join(sorted(text.split())) for text in texts]
    real, spoiled = read(texts), read(shuffled)
    assert real.perplexity < 60 < spoiled.perplexity
    assert (real.kinds == kinds).double().mean() > 0.5


def test_words_at_the_edges_do_not_count() -> None:
    known = frozenset({"lord", "the", "lord's"})
    assert 1.0 == share_of_words(["ord the lord's the lor"], known)
    assert 0.5 == share_of_words([" the xyzzy.", "the"], known)
    assert 2 / 3 == share_of_words([" the lord spokken "], known)
    assert 0.0 == share_of_words(["lord"], known)
    assert 1.0 == share_of_words([" the<|endoftext|>lord "], known)
    assert {"lord", "lord's", "abraham"} < real_words()


def test_clusters_and_similarity() -> None:
    x = torch.tensor([[0.0, 0], [0, 1], [10, 0], [10, 1]])
    number = clustered(x, 2).tolist()
    assert number[0] == number[1] != number[2] == number[3]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 4, generator=generator)
    assert 1 > similarity(a, b, 10) > 0.9 > similarity(a, b + 1, 10) > similarity(a, b + 4, 10)


def test_perplexity_at_an_entropy_lies_between_its_neighbours() -> None:
    curve = [(3.0, 16.0), (2.0, 4.0), (4.0, 32.0)]
    assert 8 == pytest.approx(at_entropy(curve, 2.5))
    assert 16 == pytest.approx(at_entropy(curve, 3.0))
    assert at_entropy(curve, 1.9) is None
    assert at_entropy(curve, 4.1) is None


def test_numbers_of_real_text_and_of_noise() -> None:
    teacher, metric = Text(), ReadingMetrics(most=200)
    check_options(metric)
    parts = [teacher.packed(Scripture().load(split)) for split in ("reference", "teacher")]
    reference, real = (
        Samples(conditions=tuple(part.labels[::15].tolist()), tokens=part.tokens[::15].long())
        for part in parts
    )
    noise = Samples(
        conditions=real.conditions,
        tokens=torch.randint(2, 512, real.tokens.shape, generator=torch.Generator().manual_seed(0)),
    )
    good, bad = (metric.compute(samples, reference, teacher) for samples in (real, noise))
    assert {"perplexity", "words", "kind", "mauve"} == good.keys()
    assert good["words"] > 0.999 > bad["words"]
    assert good["perplexity"] < 60 < bad["perplexity"]
    assert good["mauve"] > 0.8 > bad["mauve"]
    assert good["kind"] > 0.5 > bad["kind"]
    with pytest.raises(UsageError, match="the evaluation plan names no data"):
        metric.compute(real, None, teacher)


def test_a_part_that_is_read_is_of_all_kinds_and_always_the_same() -> None:
    """Conditions come in turn, so that every second sample would be of one kind of two."""
    samples = Samples(conditions=(0, 1) * 50, tokens=torch.arange(100)[:, None])
    one, again = (ReadingMetrics(most=40)._read(samples) for _ in range(2))
    assert 40 == len(one)
    assert one.conditions == again.conditions
    assert 10 < sum(one.conditions) < 30
    assert samples.conditions == ReadingMetrics(most=100)._read(samples).conditions
