"""What `dimo pretrain` asks of a new MDLM teacher: its sizes, and a tokenizer for its text."""

from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.urls import from_anywhere
from dimo_core.limits import check_heads
from dimo_core.sources import Examples
from dimo_mdlm.architecture import Architecture
from dimo_mdlm.tokenizer import LOOKED_FOR, Characters, Tokenizer, read_tokenizer


@attrs.frozen(kw_only=True)
class Pretraining:
    """Architecture and tokenizer of a new MDLM teacher.

    Attributes:
        width: Hidden width of the network.
        depth: Number of blocks.
        heads: Attention heads.
        conditioning: Width of the vector that modulates every block.
        length: Tokens of a sample.
        dropout: Dropout probability in training mode.
        time_conditioning: Tell the network how much is masked; published networks are not told.
        tokenizer: Folder with characters.json, tokenizer.json, or vocab.json and merges.txt, whose tokens are
            used; null takes the characters of the training text.
    """

    width: int = attrs.field(default=192, validator=v.gt(0))
    depth: int = attrs.field(default=4, validator=v.gt(0))
    heads: int = attrs.field(default=6, validator=v.gt(0))
    conditioning: int = attrs.field(default=64, validator=v.gt(0))
    length: int = attrs.field(default=64, validator=v.gt(2))
    dropout: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])
    time_conditioning: bool = False
    tokenizer: str | None = attrs.field(default=None, converter=from_anywhere)

    @heads.validator
    def _divides_the_width(self, _: Any, heads: int) -> None:
        check_heads(heads, self.width, "--model.width", multiple=2)

    def architecture(self, codes: int, classes: int) -> Architecture:
        """Sizes of the network for so many codes and classes.

        Raises:
            UsageError: when they are beyond any machine.
        """
        names = [field.name for field in attrs.fields(type(self)) if field.name != "tokenizer"]
        try:
            return Architecture(**{n: getattr(self, n) for n in names}, codes=codes, classes=classes)
        except ValueError as error:
            raise UsageError(f"--model.width, --model.depth or --model.conditioning: {error}") from error


def tokenizer_for(options: Pretraining, examples: Examples) -> Tokenizer:
    """The named tokenizer, or the characters of the examples.

    Raises:
        UsageError: when the examples are no texts.
        CheckpointError: when the named tokenizer is missing or damaged.
    """
    if options.tokenizer is not None:
        found = read_tokenizer(options.tokenizer)
        if found is None:
            raise CheckpointError(f"no tokenizer in {options.tokenizer!r}. Looked for {LOOKED_FOR}")
        return found
    if examples.lines is None:
        raise UsageError("an MDLM teacher learns texts, and these examples are none. Try --data text-files")
    return Characters.fitted(examples.lines)
