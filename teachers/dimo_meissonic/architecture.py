"""Sizes of the transformer, as ``transformer/config.json`` of a published folder holds them."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import CheckpointError, message
from dimo_core.limits import check_network


@attrs.frozen(kw_only=True)
class Architecture:
    """Sizes of the transformer, by their published names.

    None has a default: the published code has defaults of another network, and several shape no tensor.

    Attributes:
        num_layers: Blocks with separate text and image streams.
        num_single_layers: Blocks with one stream.
        num_attention_heads: Attention heads.
        attention_head_dim: Width of a head.
        axes_dims_rope: Share of a head that is rotated by text position, row and column.
        joint_attention_dim: Width of the text embeddings J.
        pooled_projection_dim: Width of the pooled text embedding P; that of the network, D.
        vocab_size: Embeddings; the last one is the mask token.
        codebook_size: Codes V.
        downsample: Whether the blocks see 2 x 2 tokens as one.
    """

    num_layers: int = attrs.field(validator=v.ge(0))
    num_single_layers: int = attrs.field(validator=v.ge(0))
    num_attention_heads: int = attrs.field(validator=v.gt(0))
    attention_head_dim: int = attrs.field(validator=v.gt(0))
    axes_dims_rope: tuple[int, ...] = attrs.field(converter=tuple)
    joint_attention_dim: int = attrs.field(validator=v.gt(0))
    pooled_projection_dim: int = attrs.field(validator=v.gt(0))
    vocab_size: int = attrs.field(validator=v.gt(2))
    codebook_size: int = attrs.field(validator=v.gt(1))
    downsample: bool

    def __attrs_post_init__(self) -> None:
        """Check that the sizes fit each other.

        Raises:
            ValueError: if they do not.
        """
        if self.pooled_projection_dim != self.width:
            raise ValueError(
                f"pooled_projection_dim {self.pooled_projection_dim} is not the width {self.width}, "
                "num_attention_heads x attention_head_dim"
            )
        if len(self.axes_dims_rope) != 3 or sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(f"axes_dims_rope {self.axes_dims_rope} does not add up to attention_head_dim")
        if any(size % 2 for size in self.axes_dims_rope):
            raise ValueError(f"axes_dims_rope {self.axes_dims_rope} has an odd entry")
        layers = self.num_layers + self.num_single_layers
        width = max(self.width, self.joint_attention_dim)
        check_network(layers, layers * 12 * width**2 + self.vocab_size * width)
        if self.codebook_size >= self.vocab_size:
            raise ValueError(f"vocab_size {self.vocab_size} leaves no id for the mask token")

    @property
    def width(self) -> int:
        """Hidden width D."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mask_id(self) -> int:
        """The id of the mask token."""
        return self.vocab_size - 1

    @property
    def default_grid(self) -> tuple[int, int]:
        """Of the two published networks: 64 x 64 tokens with down-sampling, 32 x 32 without."""
        return (64, 64) if self.downsample else (32, 32)

    def as_config(self) -> dict[str, Any]:
        """The arguments of the network, which are the entries of ``config.json``."""
        config = attrs.asdict(self)
        return {**config, "axes_dims_rope": list(self.axes_dims_rope), "upsample": self.downsample}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str) -> "Architecture":
        """Read ``config.json``.

        Args:
            config: Its entries; further ones (``patch_size``, ``in_channels`` ...) shape nothing.
            source: Where it was read, for messages.

        Raises:
            CheckpointError: when an entry is missing or impossible, or stands for another network.
        """
        names = [field.name for field in attrs.fields(cls)]
        if missing := [name for name in [*names, "upsample"] if name not in config]:
            raise CheckpointError(f"{source} describes no Meissonic transformer: no {', '.join(missing)}")
        if config["upsample"] != config["downsample"] or config.get("guidance_embeds"):
            raise CheckpointError(
                f"{source}: downsample and upsample must agree and guidance_embeds must be false, "
                "as in all published Meissonic networks"
            )
        try:
            return cls(**{name: config[name] for name in names})
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source} describes an impossible network: {message(error)}") from error
