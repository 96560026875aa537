"""Sizes of an MDLM network, as ``config.json`` and ``teacher.yaml`` tell them."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import CheckpointError, message
from dimo_core.limits import check_network

MODEL_TYPE = "mdlm"
"""``model_type`` in the published ``config.json``."""


@attrs.frozen(kw_only=True)
class Architecture:
    """Sizes of the network.

    None has a default but those that the published networks lack: no tensor's shape depends on ``heads``.

    Attributes:
        width: Hidden width D.
        depth: Number of blocks.
        heads: Attention heads.
        conditioning: Width C of the vector that modulates every block.
        codes: Vocabulary size V; the mask is id V.
        length: Tokens of a sample L.
        dropout: Dropout probability in training mode.
        time_conditioning: Whether the network is told how much is masked.
        classes: Number of classes; 0 for a network without them, such as every published one.
    """

    width: int = attrs.field(validator=v.gt(0))
    depth: int = attrs.field(validator=v.gt(0))
    heads: int = attrs.field(validator=v.gt(0))
    conditioning: int = attrs.field(validator=v.gt(0))
    codes: int = attrs.field(validator=v.gt(1))
    length: int = attrs.field(validator=v.gt(0))
    dropout: float = attrs.field(validator=[v.ge(0), v.lt(1)])
    time_conditioning: bool = False
    classes: int = attrs.field(default=0, validator=v.ge(0))

    def __attrs_post_init__(self) -> None:
        """Check that heads divide the width into even parts, and that there are machines for such sizes.

        Raises:
            ValueError: if not.
        """
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not divisible by twice the heads, {self.heads}")
        block = 12 * self.width**2 + 6 * self.width * self.conditioning
        check_network(self.depth, self.depth * block + 2 * (self.codes + 1) * self.width)

    def config(self) -> dict[str, Any]:
        """The fields of the published ``config.json``, and ``classes`` where there are some."""
        return {
            "model_type": MODEL_TYPE,
            "vocab_size": self.codes + 1,
            "model_length": self.length,
            "hidden_dim": self.width,
            "cond_dim": self.conditioning,
            "n_blocks": self.depth,
            "n_heads": self.heads,
            "dropout": self.dropout,
            "time_conditioning": self.time_conditioning,
            **({"classes": self.classes} if self.classes else {}),
        }

    @classmethod
    def from_config(cls, config: Any, source: str) -> "Architecture":
        """The sizes in a ``config.json``.

        Args:
            config: Its content.
            source: Where it was read, for messages.

        Raises:
            CheckpointError: when it is of another model, or lacks a size.
        """
        kind = config.get("model_type") if isinstance(config, Mapping) else None
        if not isinstance(config, Mapping) or kind != MODEL_TYPE:
            raise CheckpointError(
                f"{source} describes no MDLM: its model_type is {kind!r}, not {MODEL_TYPE!r}"
            )
        sizes = ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads")
        if wrong := [name for name in sizes if not isinstance(config.get(name), int)]:
            raise CheckpointError(f"{source} lacks {', '.join(wrong)}: each is a whole number")
        try:
            return cls(
                width=config["hidden_dim"],
                depth=config["n_blocks"],
                heads=config["n_heads"],
                conditioning=config["cond_dim"],
                codes=config["vocab_size"] - 1,
                length=config["model_length"],
                dropout=float(config.get("dropout", 0.1)),
                time_conditioning=bool(config.get("time_conditioning", False)),
                classes=int(config.get("classes", 0)),
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: {message(error)}") from error
