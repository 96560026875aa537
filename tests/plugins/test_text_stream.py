"""Text that does not fit in memory: shards, their token cache, and what a teacher learns from it."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from dimo_core.cli import main as dimo
from dimo_core.data import token_encoding
from dimo_core.data.feeds import CachedFeed
from dimo_core.engine.ranks import ALONE
from dimo_core.errors import CheckpointError, ConfigError, Interrupted, UsageError
from dimo_core.evaluation.reference import real_batches, real_identity
from dimo_core.files.folder import Folder
from dimo_core.jobs.training_data import training_data
from dimo_core.options import build
from dimo_core.progress import Stop
from dimo_core.sources import Examples
from dimo_core.testing import check_options
from dimo_mdlm.packing import packed
from dimo_mdlm.pretraining import Pretraining
from dimo_mdlm.teacher import Mdlm
from dimo_text.streamed import StreamedText

WORDS = ("the cat sat on the mat", "a dog ate the cat", "no, the dog is kind", "what is one and one?")
LENGTH = 8


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of several documents, and one of next to nothing."""
    for shard in range(3):
        lines = [{"text": f"{word} {shard}" * 3, "kind": ("a", "b")[i % 2]} for i, word in enumerate(WORDS)]
        (tmp_path / f"s{shard}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "s3.jsonl").write_text(
        json.dumps({"text": "hi", "kind": "a"}) + "\n\n" + json.dumps({"text": " ", "kind": "b"})
    )
    return str(tmp_path / "s{0..3}.jsonl")


def small(data: StreamedText, examples: Examples) -> Any:
    """A teacher that is created from examples."""
    model = Pretraining(width=16, depth=1, heads=2, conditioning=8, length=LENGTH, dropout=0.0)
    return Mdlm.create(model, examples, evaluation=data.evaluation(), seed=0)


def filled(data: StreamedText, tokens: Path, out: Path) -> tuple[Any, CachedFeed]:
    """The teacher and feed of a run."""
    with training_data(data, str(tokens), Folder(str(out)), ALONE) as given:
        teacher = small(data, given.examples)
        feed = given.feed(teacher, seed=0, device=torch.device("cpu"))
    assert isinstance(feed, CachedFeed)
    return teacher, feed


def test_options(shards: str) -> None:
    check_options(StreamedText(url=shards, label="kind", classes=("a", "b")))
    for wrong in ({"label": "kind"}, {"classes": ["a"]}):
        with pytest.raises(ConfigError, match="go together"):
            build(StreamedText, {"url": shards, **wrong})
    with pytest.raises(ConfigError, match="must differ"):
        build(StreamedText, {"url": shards, "label": "kind", "classes": ["a", "a"]})
    with pytest.raises(UsageError, match=r"no split 'held-out'\. Known: train"):
        StreamedText(url=shards).open("held-out")


def test_each_shard_is_packed_by_itself_and_what_is_too_little_is_left_out(
    shards: str, tmp_path: Path
) -> None:
    data = StreamedText(url=shards, label="kind", classes=("a", "b"))
    teacher, feed = filled(data, tmp_path / "tokens", tmp_path / "run")
    stream, expected = data.open("train"), []
    for shard in stream.shards[:3]:
        rows = packed(stream.read(shard), LENGTH, teacher._tokenizer)
        assert rows.tokens is not None
        expected += list(zip(rows.tokens.tolist(), rows.labels.tolist(), strict=True))
    found = zip(feed.examples.tokens.tolist(), feed.examples.labels.tolist(), strict=True)
    assert expected == list(found)
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text())
    assert 0 == manifest["shards"]["00003.safetensors"][0]
    assert {0, 1} == set(feed.read(0, 32).conditions.tolist())


def test_a_finished_cache_is_used_without_the_text_and_one_of_other_text_is_refused(
    shards: str, tmp_path: Path
) -> None:
    data = StreamedText(url=shards)
    teacher, first = filled(data, tmp_path / "tokens", tmp_path / "run")
    for shard in tmp_path.glob("s*.jsonl"):
        shard.unlink()
    again, second = filled(data, tmp_path / "tokens", tmp_path / "other")
    assert again._tokenizer.signs == teacher._tokenizer.signs
    assert torch.equal(first.read(5, 7).tokens, second.read(5, 7).tokens)  # type: ignore[arg-type]
    other = attrs.evolve(data, field="text")
    with pytest.raises(UsageError, match="are of another data"):
        filled(other, tmp_path / "tokens", tmp_path / "third")
    lines = tmp_path / "tokens" / "examples.json"
    lines.write_text(lines.read_text().replace("cat", "cow"))
    with pytest.raises(CheckpointError, match=r"examples\.json is"):
        filled(data, tmp_path / "tokens", tmp_path / "fourth")


def test_encoding_goes_on_where_it_was_stopped(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read = StreamedText(url=shards), list[str]()
    _, expected = filled(data, tmp_path / "whole", tmp_path / "a")
    taken = data.open("train").read

    class Stopping(Stop):
        @property
        def requested(self) -> str:  # type: ignore[override]
            return "SIGINT" if len(read) == 2 else ""

        @requested.setter
        def requested(self, value: str) -> None:
            pass

    def noted(self: Any, shard: str, most: int | None = None) -> Examples:
        if most is None:
            read.append(shard)
        return taken(shard, most)

    monkeypatch.setattr("dimo_text.streamed.Shards.read", noted)
    with monkeypatch.context() as patch:
        patch.setattr(token_encoding, "Stop", Stopping)
        with pytest.raises(Interrupted, match="stopped by SIGINT while encoding"):
            filled(data, tmp_path / "tokens", tmp_path / "b")
    kept = len(list((tmp_path / "tokens" / "shards").glob("*.json")))
    assert 2 == kept
    del read[:]
    _, found = filled(data, tmp_path / "tokens", tmp_path / "c")
    assert 2 == len(read)
    assert torch.equal(expected.examples.tokens, found.examples.tokens)


def test_held_out_text_is_the_reference(shards: str, tmp_path: Path) -> None:
    data = StreamedText(url=shards, held_out=str(tmp_path / "s1.jsonl"))
    teacher = small(data, data.open("train").sample())
    samples = list(real_batches(data, "held-out", 4, teacher))
    rows = packed(data.load("held-out"), LENGTH, teacher._tokenizer)
    assert torch.equal(torch.cat([one.tokens for one in samples]), rows.tokens)  # type: ignore[arg-type, misc]
    assert all(len(one) <= 4 for one in samples)
    assert StreamedText(url=shards).evaluation() is None
    before = real_identity(data, ["train", "held-out"])
    (tmp_path / "s1.jsonl").write_text(json.dumps({"text": "another text"}))
    assert before != real_identity(data, ["train", "held-out"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", "kind": "c"}', "the class 'c' is none of a, b. Name all of them with --data.classes"),
        ('{"txt": "a", "kind": "a"}', "no text in the field 'text'"),
        ("{", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(
    line: str, said: str, shards: str, tmp_path: Path
) -> None:
    (tmp_path / "s2.jsonl").write_text(line)
    data = StreamedText(url=shards, label="kind", classes=("a", "b"))
    with pytest.raises(UsageError, match=r"s2\.jsonl") as error:
        filled(data, tmp_path / "tokens", tmp_path / "run")
    assert said in str(error.value)


def test_a_teacher_of_images_refuses_it(shards: str, tmp_path: Path, tiny_teacher: Any) -> None:
    data, tokens = StreamedText(url=shards), str(tmp_path / "tokens")
    with (
        training_data(data, tokens, Folder(str(tmp_path / "run")), ALONE) as given,
        pytest.raises(UsageError, match="makes no rows of texts"),
    ):
        given.feed(tiny_teacher, seed=0, device=torch.device("cpu"))


def test_pretraining_and_distilling_share_the_cache(shards: str, tmp_path: Path) -> None:
    data = ["--data", "text-stream", "--data.url", shards, "--tokens", str(tmp_path / "tokens")]
    sizes = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--model.length", "8"]
    train = ["--train.steps", "2", "--train.batch_size", "4", "--device", "cpu"]
    out = ["--out", str(tmp_path / "teacher")]
    assert 0 == dimo(["pretrain", "--teacher", "mdlm", *data, *sizes, *train, *out])
    assert not list((tmp_path / "teacher").glob("tokens"))
    teacher = ["--teacher", "mdlm", "--teacher.checkpoint", str(tmp_path / "teacher" / "teacher")]
    more = ["--preset", "idlm", "--eval.enabled", "false", "--out", str(tmp_path / "student")]
    assert 0 == dimo(["run", *teacher, *data, *train, *more])
