"""Batches by global position: how a batch is divided changes no row of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.data.feeds import TokenFeed
from dimo_core.draws import Draws
from dimo_core.engine.loop import Engine
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.method.masked_modelling import MaskedModelling
from dimo_core.objective import Ingredients
from dimo_core.settings import Train
from dimo_core.sources import Data, Examples
from dimo_digits.data import Digits

CPU = torch.device("cpu")


@attrs.frozen(kw_only=True)
class Noisy(Data):
    """Six examples of 2 x 2 pixels, with noise; an epoch ends within a batch of eight."""

    def splits(self) -> tuple[str, ...]:
        return ("all",)

    def load(self, split: str) -> Examples:
        images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2) * 10
        return Examples(images=images, labels=torch.arange(6) % 2, classes=("a", "b"))

    @property
    def augments(self) -> bool:
        return True

    def augment(self, images: Tensor, draws: Draws) -> Tensor:
        return (images + draws.normal("noise", *images.shape[1:])).abs()


@pytest.fixture
def feed(tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TokenFeed]:
    """Its tokens tell every bit of the pixels."""

    def bits(self: Any, images: Tensor, c: Tensor) -> Tensor:
        return images.float().flatten(1).view(torch.int32).long()

    monkeypatch.setattr(type(tiny_teacher), "encode", bits)

    def made(data: Data, seed: int = 3) -> TokenFeed:
        return TokenFeed(tiny_teacher, data, data.load(data.splits()[0]), seed=seed, device=CPU)

    return made


def tokens(f: TokenFeed, start: int, count: int) -> Tensor:
    read = f.read(start, count).tokens
    assert read is not None
    return read


@pytest.mark.parametrize("data", [Noisy(), Digits()])
@pytest.mark.parametrize("accumulate", [2, 64])
def test_augmented_rows_do_not_depend_on_micro_batches(
    feed: Callable[..., TokenFeed], data: Data, accumulate: int
) -> None:
    f = feed(data)
    for step in range(25):
        whole, size = tokens(f, 64 * step, 64), 64 // accumulate
        parts = [tokens(f, 64 * step + k * size, size) for k in range(accumulate)]
        assert torch.equal(whole, torch.cat(parts))


def test_an_example_is_augmented_anew_in_each_epoch(feed: Callable[..., TokenFeed]) -> None:
    f = feed(Noisy())
    seen = [tokens(f, 6 * epoch, 6) for epoch in range(3)]
    assert len(torch.cat(seen).unique(dim=0)) == 18


def test_seeds_augment_differently(feed: Callable[..., TokenFeed]) -> None:
    first, second = (feed(Noisy(), seed) for seed in (1, 2))
    assert not set(map(tuple, tokens(first, 0, 6).tolist())) & set(map(tuple, tokens(second, 0, 6).tolist()))


def test_a_run_sees_the_same_rows_with_any_number_of_micro_batches(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same masks, and the same gradients but for the order of sums."""
    monkeypatch.setattr(
        type(tiny_teacher),
        "encode",
        lambda self, images, c: (images.flatten(1) * 9).long() % 5,
        raising=False,
    )

    def run(accumulate: int) -> tuple[Tensor, dict[str, Tensor]]:
        made = MaskedModelling(label_dropout=0.3).build(Ingredients(teacher=tiny_teacher))
        data = Noisy()
        f = TokenFeed(tiny_teacher, data, data.load("all"), seed=3, device=CPU)
        seen: list[Tensor] = []

        def read(start: int, count: int) -> Any:
            batch = TokenFeed.read(f, start, count)
            seen.append(torch.cat([batch.tokens, batch.conditions[:, None]], 1))
            return batch

        f.read = read  # type: ignore[method-assign]
        train = Train(steps=3, batch_size=8, accumulate=accumulate)
        made.network.double().eval()
        engine = Engine(
            made, {"data": f}, train, folder=Folder(str(tmp_path / str(accumulate))), seed=3, device=CPU
        )
        engine.run()
        return torch.cat(seen), dict(made.network.state_dict())

    rows, weights = run(1)
    for accumulate in (2, 4):
        again, close = run(accumulate)
        assert torch.equal(rows, again)
        torch.testing.assert_close(close, weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("data", [Noisy(), Digits(augment_probability=0.0)])
def test_images_and_conditions_are_encoded_on_the_device_of_the_run(
    tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch, data: Data
) -> None:
    seen = []

    def encode(self: Any, images: Tensor, c: Tensor) -> Tensor:
        seen.append((images.device.type, c.device.type))
        return torch.zeros(len(images), 4, dtype=torch.long)

    monkeypatch.setattr(type(tiny_teacher), "encode", encode, raising=False)
    examples = data.load(data.splits()[0])
    f = TokenFeed(tiny_teacher, data, examples, seed=3, device=torch.device("meta"))
    batch = f.read(0, 8)
    assert {("meta", "meta")} == set(seen)
    assert data.augments or "meta" == batch.tokens.device.type
    assert "meta" == batch.conditions.device.type


@attrs.frozen(kw_only=True)
class Lines(Data):
    """Texts, one of two numbers and one of four."""

    def splits(self) -> tuple[str, ...]:
        return ("all",)

    def load(self, split: str) -> Examples:
        return Examples(lines=("01", "2340"), labels=torch.tensor([0, 1]), classes=("a", "b"))


def test_a_teacher_of_texts_makes_rows_of_them(tiny_teacher: Any) -> None:
    """Here a row for each number: more rows than texts, each with the condition of its text."""

    class Reader(type(tiny_teacher)):  # type: ignore[misc]
        def packed(self, examples: Examples) -> Examples:
            lines = examples.lines or ()
            numbers = [[int(n)] * 4 for line in lines for n in line]
            labels = [int(label) for label, line in zip(examples.labels, lines, strict=True) for _ in line]
            return Examples(tokens=torch.tensor(numbers), labels=torch.tensor(labels))

    feed = TokenFeed(Reader(), Lines(), Lines().load("all"), seed=0, device=CPU)
    batch = feed.read(0, 6)
    found = sorted(zip(batch.x_0[:, 0].tolist(), batch.conditions.tolist(), strict=True))
    assert [(0, 0), (0, 1), (1, 0), (2, 1), (3, 1), (4, 1)] == found
    assert torch.long == batch.x_0.dtype
    with pytest.raises(UsageError, match="makes no tokens of texts"):
        TokenFeed(tiny_teacher, Lines(), Lines().load("all"), seed=0, device=CPU)
