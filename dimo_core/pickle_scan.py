"""A look over a pickle before it is read: what would harm the unpickler itself is refused.

The instructions and what each takes from the stack are those that the standard library's ``pickletools``
lists.
"""

import pickle
import pickletools
from io import BufferedReader, BytesIO
from typing import Any

NESTING = 10_000
"""Most tuples that one tuple may hold, through all levels; hashing recurses over them in C, unchecked."""


def scan(file: BytesIO | BufferedReader) -> None:
    """Read over one pickle, and refuse what would harm the unpickler itself.

    These are extension codes, which bypass the look-up by name; places in the memo far beyond the first free
    one, which take memory; and tuples in tuples without end, whose hash overflows the C stack or never ends.
    For the latter the stack is simulated with, for each object, the number of tuples in it.

    Raises:
        UnpicklingError: one of these was found.
        ValueError: the file ends too early, or is no pickle.
        IndexError: an instruction takes more from the stack than there is.
        KeyError: an instruction refers to nothing.
    """
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int | None] = {}
    argument: Any
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if name.startswith("EXT"):
            raise pickle.UnpicklingError(f"extension code {argument}, which is not allowed")
        if name == "MEMOIZE" or name.endswith("PUT"):
            place = len(memo) if argument is None else int(argument)
            if place > count:
                raise pickle.UnpicklingError(f"place {place} of the memo")
            memo[place] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            taken = _take(stack, code)
            nested = sum(taken)
            if name.startswith("TUPLE"):
                nested += 1
            elif name not in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"):
                nested = 0
            if nested > NESTING:
                raise pickle.UnpicklingError("tuples nested without end")
            stack.extend([nested] * len(code.stack_after))


def _take(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """Remove what an instruction takes."""
    before = code.stack_before
    taken: list[int | None] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    return [nested or 0 for nested in taken]
