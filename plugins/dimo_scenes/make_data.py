"""Make ``scans.safetensors`` from the copy of the scans in scikit-learn.

::

    python -m dimo_scenes.make_data [FILE]

The result is the same, byte for byte, wherever it is made.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from dimo_core.errors import MissingLibraryError
from dimo_scenes.composing import part_of

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
            f"the scans are a data set of scikit-learn, which does not load ({error})."
            " Install it: pip install 'dimo[digits]'"
        ) from error
    bundle = load_digits()
    digits = torch.from_numpy(bundle.target).long()
    images = torch.from_numpy(bundle.images).to(torch.uint8)
    tensors = {"images": images, "digits": digits.to(torch.uint8), "part": part_of(digits).to(torch.uint8)}
    save_file(tensors, path, {"source": SOURCE})


if __name__ == "__main__":
    make_data(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("scans.safetensors"))
