"""Where conditions and training data come from: ``Conditions`` and ``Data``."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dimo_core.conditions import Conditioning, from_text
from dimo_core.errors import UsageError

if TYPE_CHECKING:
    from dimo_core.draws import Draws
    from dimo_core.suggestions import EvaluationPlan


FEW = 10
"""So many broken images are survived whatever their share, unless none may be broken."""


class ConditionStream(ABC):
    """An endless sequence of raw conditions, read by global position."""

    @abstractmethod
    def read(self, start: int, count: int) -> list[Any]:
        """The raw conditions at global positions start .. start + count - 1.

        A pure function of its arguments and of the seed with which the stream was opened, for any
        number of processes. The position is all that has to be remembered to resume.

        Raises:
            SourceError: when what could be read before cannot be read any more.
        """

    def record(self) -> Mapping[str, Any] | None:
        """Plain data, for JSON, that fix the stream together with options and seed; None for none.

        A run folder keeps them, and a resumed run hands them to ``Conditions.reopen``.
        """
        return None


class Conditions(ABC):
    """A source of raw conditions, c ~ D (labels, prompts); a frozen attrs class of its options."""

    @abstractmethod
    def open(self, conditioning: Conditioning, *, seed: int) -> ConditionStream:
        """Start reading.

        Args:
            conditioning: What the teacher takes; the source checks that it can deliver it.
            seed: The seed that fixes the order.

        Raises:
            UsageError: when the source is empty, or of another kind than the teacher takes.
        """

    def reopen(self, conditioning: Conditioning, record: Mapping[str, Any], *, seed: int) -> ConditionStream:
        """Read what the stream reads whose ``record`` this is, whatever has come or gone since.

        Args:
            conditioning: As for ``open``.
            record: What ``ConditionStream.record`` gave.
            seed: As for ``open``.

        Raises:
            UsageError: when the source is of another kind than the teacher takes, or the record of another.
        """
        return self.open(conditioning, seed=seed)

    @abstractmethod
    def balanced(self, conditioning: Conditioning, count: int) -> list[Any]:
        """A fixed, evenly spread list of ``count`` conditions, for evaluation and grids."""

    def parse(self, conditioning: Conditioning, given: Sequence[str]) -> list[Any]:
        """Raw conditions from text: the words of ``dimo sample --conditions ...``, what ``describe`` gave.

        Class names or indices become labels, and all else is taken as it is. A source of a kind of its own
        overrides this with the inverse of ``Teacher.describe``.

        Args:
            conditioning: As for ``open``.
            given: One text a condition.

        Raises:
            UsageError: for a text that stands for no condition.
        """
        return from_text(conditioning, given)


@attrs.frozen(kw_only=True, eq=False)
class Examples:
    """What a teacher is trained with, in memory: images, tokens or lines of text, each with its condition.

    Attributes:
        images: ``uint8 [N, C, H, W]``.
        tokens: What is tokens already, in the teacher's own codes, ``[N, L]``.
        lines: Texts, which the teacher makes tokens of.
        labels: Class index of each, where the condition is a label.
        classes: Class names.
        texts: Caption of each, where the condition is text.
        given: Raw condition of each, where it is of another kind.
        details: Other facts of each by name, such as the digit behind a parity label.
    """

    images: UInt8[Tensor, "N C H W"] | None = None
    tokens: Int[Tensor, "N L"] | None = None
    lines: tuple[str, ...] | None = None
    labels: Int[Tensor, " N"] = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.long))
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    given: tuple[Any, ...] = ()
    details: dict[str, Tensor] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Refuse what does not belong together.

        Raises:
            ValueError: when it is of several kinds or none, or not each one has a condition.
        """
        kinds = [name for name in ("images", "tokens", "lines") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"give images, tokens or lines, one of them; got {' and '.join(kinds) or 'none'}"
            )
        for name in ("labels", "texts", "given"):
            if len(each := getattr(self, name)) not in (len(self), 0):
                text = f"{len(each)} {name} for {len(self)} {kinds[0]}: give one for each, or none"
                raise ValueError(text)

    def __len__(self) -> int:
        """How many there are."""
        return len(next(kind for kind in (self.images, self.tokens, self.lines) if kind is not None))

    @property
    def pictures(self) -> UInt8[Tensor, "N C H W"]:
        """The images.

        Raises:
            UsageError: when they are something else.
        """
        if self.images is None:
            what = "tokens" if self.lines is None else "texts"
            raise UsageError(f"these examples are {what}, and images are wanted. Choose other --data.")
        return self.images

    def conditions(self) -> list[Any]:
        """The raw condition of each: what is given, else its caption, else its label.

        Raises:
            UsageError: when there is none.
        """
        if len(self) and not (self.given or self.texts or len(self.labels)):
            raise UsageError("these examples have no conditions: neither labels, nor texts, nor others.")
        return list(self.given or self.texts) or self.labels.tolist()

    def part(self, rows: slice | Int[Tensor, " M"]) -> "Examples":
        """Some of them, without the details."""
        places, parts = torch.arange(len(self))[rows].tolist(), dict[str, Any]()
        for name in ("images", "tokens", "lines", "labels", "texts", "given"):
            value = getattr(self, name)
            if value is not None and len(value):
                parts[name] = value[rows] if isinstance(value, Tensor) else tuple(value[i] for i in places)
        return Examples(classes=self.classes, **parts)


@attrs.frozen(kw_only=True, eq=False)
class Picture:
    """One image of a stream, or why there is none.

    Attributes:
        key: What people find it by.
        label: Class index; -1 when unknown.
        image: ``uint8 [C, H, W]``; None when it is broken.
        error: What is wrong with it.
        lost: Whether the rest of its shard is lost too; ``key`` then names the shard.
    """

    key: str
    label: int = -1
    image: UInt8[Tensor, "C H W"] | None = None
    error: str = ""
    lost: bool = False


class PictureStream(ABC):
    """Images that do not fit in memory: shards that are read independently of one another.

    Attributes:
        classes: Class names.
        shards: Names of the shards, in a fixed order.
        max_broken: Share of the images, and of the shards, that may be broken.
    """

    classes: tuple[str, ...]
    shards: Sequence[str]
    max_broken: float

    def allowed(self, pictures: int) -> int:
        """How many of so many pictures may be broken; a few always, unless none may."""
        return max(FEW * (self.max_broken > 0), int(self.max_broken * pictures))

    def versions(self) -> Sequence[str]:
        """A line for each file that changes when it is replaced; names of shards if no more is known."""
        return self.shards

    @abstractmethod
    def read(self, shard: str) -> Iterator[Picture]:
        """The pictures of a shard, in a fixed order, all of one shape; broken ones say so."""

    def sample(self, count: int = 1024, size: int = 2**25, shards: int = 16) -> Examples:
        """The first whole pictures of shards that are spread evenly over the stream.

        Args:
            count: How many, at most.
            size: How many bytes of pixels, at most; one picture of each shard is read in any case.
            shards: How many shards are read.

        Raises:
            UsageError: when there is no shard, or none of these holds a whole picture.
        """
        chosen = dict.fromkeys(self.shards[i * len(self.shards) // shards] for i in range(shards))
        share = -(-count // len(chosen))
        images: list[Tensor] = []
        labels: list[int] = []
        errors: list[str] = []
        for shard in chosen:
            first = len(images)
            for picture in self.read(shard):
                if picture.image is None:
                    errors.append(f"{picture.key} ({picture.error})")
                    continue
                images.append(picture.image)
                labels.append(picture.label)
                share = min(share, -(-size // (picture.image.nbytes * len(chosen))))
                if len(images) - first >= share:
                    break
        if not images:
            raise UsageError(
                f"no image can be read; looked into {len(chosen)} of {len(self.shards)} shards:"
                f" {'; '.join(errors[:3]) or 'they are empty'}."
            )
        return Examples(images=torch.stack(images), labels=torch.tensor(labels), classes=self.classes)


class TextStream(ABC):
    """Documents that do not fit in memory: shards that are read independently of one another.

    Each shard is packed by itself, so that tokens of documents of two shards never share a row.

    Attributes:
        classes: Class names.
        shards: Names of the shards, in a fixed order.
    """

    classes: tuple[str, ...]
    shards: Sequence[str]

    def versions(self) -> Sequence[str]:
        """A line for each file that changes when it is replaced; names of shards if no more is known."""
        return self.shards

    @abstractmethod
    def read(self, shard: str, most: int | None = None) -> Examples:
        """The documents of a shard as lines with labels, in a fixed order.

        Args:
            shard: Its name.
            most: How many documents, at most; None for all.

        Raises:
            UsageError: for a shard or a document that cannot be read.
        """

    def sample(self, count: int = 2**14, shards: int = 16) -> Examples:
        """The first documents of shards that are spread evenly over the stream.

        Args:
            count: How many, at most.
            shards: How many shards are read.

        Raises:
            UsageError: when these hold none, or cannot be read.
        """
        chosen = dict.fromkeys(self.shards[i * len(self.shards) // shards] for i in range(shards))
        parts = [self.read(shard, -(-count // len(chosen))) for shard in chosen]
        lines = tuple(line for part in parts for line in part.lines or ())
        if not lines:
            raise UsageError(f"no text; looked into {len(chosen)} of {len(self.shards)} shards.")
        return Examples(lines=lines, labels=torch.cat([p.labels for p in parts]), classes=self.classes)


class Data(ABC):
    """Images or texts with conditions; a frozen attrs class of its options."""

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Options that do not change what the pictures are, such as a number of threads."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Names of the parts that ``load`` knows."""

    @abstractmethod
    def load(self, split: str) -> Examples:
        """Read one part.

        Raises:
            UsageError: for an unknown split, or when there is nothing to read.
        """

    @property
    def streams(self) -> bool:
        """Whether ``open`` can be called; training then reads a token cache and never calls ``load``."""
        return False

    def open(self, split: str) -> PictureStream | TextStream:
        """Start reading one part that need not fit in memory.

        Raises:
            UsageError: for an unknown split, or when there is nothing to read.
        """
        raise UsageError(f"data {type(self).__name__} are read into memory, not streamed.")

    def identity(self) -> Mapping[str, Any]:
        """What decides what the pictures are, as plain data; token caches of others are refused."""
        cls = type(self)
        names = [field.name for field in attrs.fields(cls)] if attrs.has(cls) else []
        options = {name: getattr(self, name) for name in names if name not in self.incidental}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **options}

    @property
    def augments(self) -> bool:
        """Whether ``augment`` changes anything; if not, images are encoded once."""
        return False

    def augment(self, images: Float[Tensor, "B C H W"], draws: "Draws") -> Float[Tensor, "B C H W"]:
        """Randomly changed copies of training images in [0, 1], each by its own row of ``draws``."""
        return images

    def evaluation(self) -> "EvaluationPlan | None":
        """How samples of a teacher that was pretrained on this data are judged; None when unknown."""
        return None
