"""The family of tokenizers: which one a teacher's file describes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.vqgan import Vqgan


def load_tokenizer(spec: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Tokenizer:
    """The tokenizer of a teacher's file, by the ``kind`` in its description; without one it is ``patches``.

    Args:
        spec: The section ``tokenizer`` of ``teacher.yaml``.
        tensors: Its tensors.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: for an unknown kind, or when description and tensors do not fit.
        MissingLibraryError: when a library that the kind needs is missing.
    """
    kinds: dict[Any, type[Tokenizer]] = {cls.kind: cls for cls in (PatchCodebook, Vqgan)}
    kind = spec.get("kind", PatchCodebook.kind)
    if kind not in kinds:
        raise CheckpointError(
            f"{source}: unknown kind of tokenizer {kind!r}. Known: {', '.join(sorted(kinds))}. "
            "A newer version of dimo may know it."
        )
    return kinds[kind].from_spec(spec, tensors, source)
