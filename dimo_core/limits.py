"""What is the most that is read, made or waited for: every limit on what others give, in one place.

They are far above what anybody needs, and there so that a damaged or hostile file ends in one line, not in a
machine without memory. Checked before anything of that size is taken.
"""

YAML = 2**20
"""Bytes of a YAML file: longer lists, such as prompts, belong into files of their own."""

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

FILES = 1_000_000
"""Files that braces such as ``{000..127}`` stand for."""

MEMBER = 2**28
"""Bytes of a member of a tar file, unpacked."""

CAPTION = 100_000
"""Characters of a prompt: text towers read some hundreds."""

CLASSES = 1_000_000
"""Classes of labels: each has a name, and a row of a table."""

SPREAD = 16
"""How many times larger than its bytes a tensor in a foreign file may be (of stride 0), from 64 MiB on."""
