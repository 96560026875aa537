"""What is the most that is read, made or waited for: every limit on what others give, in one place.

They are far above what anybody needs, and there so that a damaged or hostile file ends in one line, not in a
machine without memory. Checked before anything of that size is taken.
"""

YAML = 2**20
"""Bytes of a YAML file: longer lists, such as prompts, belong into files of their own."""

NESTED = 100
"""Lists and mappings of a YAML file, one in another."""

WRITTEN_OUT = 2**22
"""Characters of a YAML file, each as often as aliases repeat it."""

MISTAKES = 20
"""Mistakes in options that are named; of more their number."""

TEXT = 2**28
"""Bytes of a file that is read whole, such as lists of prompts and of class names."""

ARRAYS = 2**36
"""Bytes of a file of arrays, which is read whole."""

FETCHED = 2**40
"""Bytes of a remote file; where the server tells no size, it ends there, or where the disk is full."""

TRICKLE = 1000
"""Bytes a second, at least, of an answer over http; measured over a time in which silence is borne."""

FILES = 1_000_000
"""Files that braces such as ``{000..127}`` stand for."""

MEMBER = 2**30
"""Bytes of a member of a tar file, unpacked."""

HEADER = 2**16
"""Bytes of the header of a member: its name, and what extensions of the format add."""

TEXT_LINE = 2**26
"""Bytes of a line of prompts or JSON."""

WHOLE = 2**63 - 1
"""The largest whole number that an option holds, a seed among them."""

DIGITS = 100
"""Characters of a number in a YAML file."""

CAPTION = 100_000
"""Characters of a prompt: text towers read some hundreds."""

PROMPT = 4_000
"""Characters of a prompt that a page sends."""

REQUEST = 2**16
"""Bytes of what a page sends."""

BATCH = 2**20
"""Samples that are computed together, by all processes."""

CLASSES = 1_000_000
"""Classes of labels: each has a name, and a row of a table."""

SPREAD = 2**24
"""Elements of a tensor in a foreign file that has more of them than its storage, as strides of 0 make it."""

LAYERS = 10_000
"""Layers of a network that a file describes."""

PARAMETERS = 2**37
"""Parameters of a network that a file describes."""


def check_heads(heads: int, width: int, option: str, *, multiple: int = 1) -> None:
    """Refuse attention heads that do not divide a width, as a validator of the option ``heads`` does.

    Args:
        heads: How many.
        width: What they share.
        option: The option that says the width, as it is typed.
        multiple: What the width of a head must be a multiple of.

    Raises:
        ValueError: then, with what is allowed.
    """
    if width % (multiple * heads):
        allowed = [str(n) for n in range(1, width + 1) if width % (multiple * n) == 0]
        what = "the width" if multiple == 1 else f"the width into multiples of {multiple}"
        some = f"{', '.join(allowed[:12])}{' ...' * (len(allowed) > 12)}" or "none"
        raise ValueError(
            f"'heads' must divide {what}: {heads} heads, {option} {width}. Of that width are allowed: {some}."
            " Set one of the two options"
        )


def check_network(layers: int, parameters: int) -> None:
    """Refuse sizes of a network that are beyond any machine, before it is built.

    Args:
        layers: How many.
        parameters: About how many.

    Raises:
        ValueError: then.
    """
    if layers > LAYERS:
        raise ValueError(f"{layers:,} layers; {LAYERS:,} is the most")
    if parameters > PARAMETERS:
        raise ValueError(f"its sizes give about {parameters:,} parameters; {PARAMETERS:,} is the most")
