"""Make ``digits.safetensors`` from the copy of the scans in scikit-learn.

::

    python -m dimo_digits.make_data [FILE]

The result is the same, byte for byte, wherever it is made.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from dimo_core.errors import MissingLibraryError
from dimo_digits.data import split_of

SOURCE = "UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, CC BY 4.0"


def make_data(path: Path) -> None:
    """Write the scans, their digits and their parts to ``path``.

    Raises:
        MissingLibraryError: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingLibraryError(
            f"the scans are read from scikit-learn, which does not load ({error}). "
            "Install it: pip install 'dimo[digits]'"
        ) from error
    source = load_digits()
    digits = torch.from_numpy(source.target).long()
    tensors = {
        "images": torch.from_numpy(source.images).to(torch.uint8),
        "digits": digits.to(torch.uint8),
        "split": split_of(digits).to(torch.uint8),
    }
    # One entry of metadata only: safetensors writes several in arbitrary order.
    save_file(tensors, path, {"source": SOURCE})


if __name__ == "__main__":
    make_data(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("digits.safetensors"))
