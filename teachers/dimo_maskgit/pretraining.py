"""What `dimo pretrain` asks of a new MaskGIT teacher: its sizes, and a tokenizer for its images."""

from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.files.urls import from_anywhere
from dimo_core.limits import check_heads
from dimo_core.sources import Examples
from dimo_maskgit.codebook import PatchCodebook, fit_codebook
from dimo_maskgit.parts import read_tokenizer
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.transformer import Architecture


@attrs.frozen(kw_only=True)
class Pretraining:
    """Architecture and tokenizer of a new MaskGIT teacher.

    Attributes:
        width: Hidden width of the transformer.
        depth: Number of blocks.
        heads: Attention heads.
        mlp: Inner width of the feed-forward layers.
        dropout: Dropout probability in training mode.
        embedding_std: Standard deviation of the initial token embeddings.
        codes: Codebook size, when the codebook is fitted.
        patch: Side of a patch in pixels; the image side must be a multiple of it.
        tokenizer: Taming's VQGAN (its last.ckpt, or the folder with it), or a teacher folder whose tokenizer
            is used; null fits a codebook of patches to the training images.
    """

    width: int = attrs.field(default=96, validator=v.gt(0))
    depth: int = attrs.field(default=4, validator=v.gt(0))
    heads: int = attrs.field(default=4, validator=v.gt(0))
    mlp: int = attrs.field(default=384, validator=v.gt(0))
    dropout: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])
    embedding_std: float = attrs.field(default=0.5, validator=v.gt(0))
    codes: int = attrs.field(default=64, validator=v.gt(1))
    patch: int = attrs.field(default=2, validator=v.gt(0))
    tokenizer: str | None = attrs.field(default=None, converter=from_anywhere)

    @heads.validator
    def _divides_the_width(self, _: Any, heads: int) -> None:
        check_heads(heads, self.width, "--model.width")

    def architecture(self, tokenizer: Tokenizer, classes: int) -> Architecture:
        """Sizes of the network for such tokens and so many classes.

        Raises:
            UsageError: when they are beyond any machine.
        """
        names = ("width", "depth", "heads", "mlp", "dropout")
        sizes: dict[str, Any] = {name: getattr(self, name) for name in names}
        try:
            return Architecture(**sizes, grid=tokenizer.grid, codes=tokenizer.codes, classes=classes)
        except ValueError as error:
            raise UsageError(f"--model.width, --model.depth or --model.mlp: {error}") from error


def tokenizer_for(options: Pretraining, examples: Examples, seed: int) -> Tokenizer:
    """The named tokenizer, or patches fitted to the examples.

    Raises:
        UsageError: when images and tokenizer do not fit.
        CheckpointError: when the named tokenizer is missing or damaged.
    """
    _, channels, height, width = examples.pictures.shape
    if options.tokenizer is not None:
        tokenizer = read_tokenizer(options.tokenizer)
        tokenizer = tokenizer.at_grid(height * tokenizer.grid // tokenizer.side)
        if (channels, height, width) != (tokenizer.channels, tokenizer.side, tokenizer.side):
            raise UsageError(
                f"images have {channels} channels and {height}x{width} pixels; the tokenizer "
                f"{options.tokenizer!r} takes {tokenizer.channels} and {tokenizer.side}x{tokenizer.side}."
            )
        return tokenizer
    if height != width or height % options.patch:
        raise UsageError(f"images of {height}x{width} pixels do not divide into patches of {options.patch}")
    try:
        rows = fit_codebook(examples.pictures / 255, options.codes, options.patch, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return PatchCodebook(rows, channels, options.patch, height)
