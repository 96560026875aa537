"""What a new, small Meissonic is made of: ``Pretraining``, options of `dimo pretrain --teacher meissonic`."""

import math
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.limits import check_heads

GROUPS = 8
"""The channels of images are normalised in so many groups."""


@attrs.frozen(kw_only=True)
class ImageFit:
    """The image tokenizer, a ``VQModel`` that is fitted to the training images.

    Attributes:
        codes: Codes V.
        factor: Pixels a token, along a side: a power of two that divides the images.
        channels: Channels at full size, a multiple of 8; twice as many below it.
        layers: Residual blocks at each size.
        steps: Steps of the fit.
        batch_size: Images a step.
        lr: Peak learning rate.
    """

    codes: int = attrs.field(default=192, validator=v.gt(1))
    factor: int = attrs.field(default=2, validator=v.in_((1, 2, 4, 8, 16)))
    channels: int = attrs.field(default=16, validator=v.gt(0))
    layers: int = attrs.field(default=1, validator=v.gt(0))
    steps: int = attrs.field(default=1000, validator=v.gt(0))
    batch_size: int = attrs.field(default=64, validator=v.gt(0))
    lr: float = attrs.field(default=2e-3, validator=v.gt(0))

    @channels.validator
    def _come_in_groups(self, _: Any, channels: int) -> None:
        if channels % GROUPS:
            raise ValueError(f"'channels' must be a multiple of {GROUPS}: {channels}")


@attrs.frozen(kw_only=True)
class TextFit:
    """The text tower, which learns to match captions with images, as CLIP does, and to tell and paint them.

    Attributes:
        width: Width of the words' embeddings; that of a whole prompt is the transformer's.
        heads: Attention heads.
        layers: Layers; the transformer sees the words before the last one.
        steps: Steps of the fit.
        batch_size: Pairs a step.
        lr: Peak learning rate.
    """

    width: int = attrs.field(default=64, validator=v.gt(0))
    heads: int = attrs.field(default=4, validator=v.gt(0))
    layers: int = attrs.field(default=3, validator=v.gt(1))
    steps: int = attrs.field(default=2000, validator=v.gt(0))
    batch_size: int = attrs.field(default=128, validator=v.gt(1))
    lr: float = attrs.field(default=2e-3, validator=v.gt(0))

    @heads.validator
    def _divides_the_width(self, _: Any, heads: int) -> None:
        check_heads(heads, self.width, "--model.text.width")


@attrs.frozen(kw_only=True)
class Pretraining:
    """Architecture of a new, small Meissonic, and how its tokenizer and its text tower are fitted.

    Attributes:
        heads: Attention heads of the transformer.
        rope: Share of a head that is rotated by text position, row and column. They add up to the width of a
            head; with ``heads`` heads that is the width of the transformer, and of a prompt's embedding.
        layers: Blocks with separate text and image streams.
        single_layers: Blocks with one stream.
        downsample: Whether the blocks see 2 x 2 tokens as one.
        vocabulary: Entries of the prompts' tokenizer, at most.
        guidance: Guidance with which the new teacher's own samples are judged.
        images: The image tokenizer.
        text: The text tower.
    """

    heads: int = attrs.field(default=4, validator=v.gt(0))
    rope: tuple[int, int, int] = attrs.field(default=(8, 12, 12), converter=tuple)
    layers: int = attrs.field(default=1, validator=v.ge(0))
    single_layers: int = attrs.field(default=3, validator=v.ge(0))
    downsample: bool = True
    vocabulary: int = attrs.field(default=2048, validator=v.gt(0))
    guidance: float = attrs.field(default=1.0, validator=[v.ge(0), v.lt(math.inf)])
    images: ImageFit = attrs.field(factory=ImageFit)
    text: TextFit = attrs.field(factory=TextFit)

    @rope.validator
    def _even_and_positive(self, _: Any, rope: tuple[int, int, int]) -> None:
        if any(size < 2 or size % 2 for size in rope):
            raise ValueError(f"'rope' must be even numbers of at least 2: {list(rope)}")
