"""From documents to rows of one length: each tokenised, its end marked, all joined and cut.

Rows of a tokenizer that frames (GPT-2's) are [end] L - 2 tokens [end], as published networks were trained;
of characters all L tokens are text. Documents of one class are joined with their like, and what is left over
at the end of a class is dropped.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.sources import Examples
from dimo_core.tokens import Tokens
from dimo_mdlm.tokenizer import Tokenizer

AT_A_TIME = 1024
"""Documents that are tokenised together."""


def rows_of(stream: Int[Tensor, " n"], length: int, tokenizer: Tokenizer) -> Tokens:
    """The rows of one long text.

    Args:
        stream: Its ids.
        length: Tokens of a row L.
        tokenizer: Says how rows are framed.
    """
    inner = length - 2 if tokenizer.framed else length
    rows = stream[: len(stream) // inner * inner].view(-1, inner)
    end = torch.full((len(rows), 1), tokenizer.end, dtype=rows.dtype)
    return torch.cat([end, rows, end], 1) if tokenizer.framed else rows


def packed(examples: Examples, length: int, tokenizer: Tokenizer, *, partial: bool = False) -> Examples:
    """Rows of tokens with their labels; without labels all are of the class 0.

    Args:
        examples: Documents, as lines.
        length: Tokens of a row.
        tokenizer: Makes tokens of text.
        partial: Whether a class may have too little text for one row.

    Returns:
        Tokens in int32, as there may be many, and labels.

    Raises:
        UsageError: when some class has too little text for one row, or there are conditions of another kind.
    """
    if examples.texts or examples.given:
        raise UsageError("an MDLM teacher takes no condition but a class, and these texts have others.")
    lines = examples.lines or ()
    labels = examples.labels if len(examples.labels) else torch.zeros(len(lines), dtype=torch.long)
    parts: list[Tokens] = []
    for label in range(max(1, len(examples.classes))):
        stream = joined([lines[i] for i in (labels == label).nonzero().flatten().tolist()], tokenizer)
        parts.append(rows_of(stream, length, tokenizer))
        if not len(parts[-1]) and not partial:
            whose = f"of class {examples.classes[label]!r}" if examples.classes else "there"
            raise UsageError(
                f"the texts {whose} have {len(stream)} tokens, too few for one row of {length}. Give more "
                "text, or a smaller --model.length."
            )
    rows = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return Examples(tokens=torch.cat(parts), labels=rows, classes=examples.classes)


def joined(texts: list[str], tokenizer: Tokenizer) -> Int[Tensor, " n"]:
    """The ids of all texts, ``end`` after each."""
    end, parts = torch.tensor([tokenizer.end], dtype=torch.int32), [torch.empty(0, dtype=torch.int32)]
    for i in range(0, len(texts), AT_A_TIME):
        for ids in tokenizer.encode(texts[i : i + AT_A_TIME]):
            parts += [ids.int(), end]
    return torch.cat(parts)
