"""The teacher ``text``: a small MDLM of the King James Version that ships with dimo."""

from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files

import attrs

from dimo_mdlm.parts import Parts, pinned
from dimo_mdlm.teacher import Mdlm

NAME = "embedded in dimo_mdlm"

CREDITS = {
    "embedded teacher": "Apache-2.0, the dimo authors",
    "its data": "public domain, the King James Version (in the United Kingdom its printing is under letters "
    "patent)",
}
"""Licence and author of what the embedded teacher is made of."""


@attrs.frozen(kw_only=True, slots=False)
class Text(Mdlm):
    """The embedded masked diffusion language model: passages of six kinds, of 64 pieces of words.

    Attributes:
        checkpoint: Folder or file of another teacher, as for mdlm; null takes the embedded one.
        revision: Commit, tag or branch of a checkpoint hf://OWNER/NAME; null for the main branch.
        tokenizer: Folder of a tokenizer; null looks beside the weights.
        heads: Attention heads of the network in a weights file that does not tell them.
        length: Tokens of a sample; null for what the network was trained with.
        time_conditioning: Whether the network in a weights file is told how much is masked.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    @cached_property
    def _parts(self) -> Parts:
        if self.checkpoint is not None:
            return self._parts_in(pinned(self.checkpoint, self.revision))
        parts = self._parts_in(str(files("dimo_mdlm") / "embedded"))
        return attrs.evolve(parts, provenance=lambda: {**parts.provenance(), "folder": NAME})

    def credits(self) -> Mapping[str, str]:
        """Those of the embedded teacher."""
        return CREDITS if self.checkpoint is None else {}

    @property
    def _source(self) -> str:
        return self.checkpoint or "the embedded teacher of text"

    @property
    def _scale(self) -> str:
        scale: str = self._parts.card["recipes"]
        return scale
