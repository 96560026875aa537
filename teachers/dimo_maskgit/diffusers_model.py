"""``load_vq_model``: the class ``VQModel`` of diffusers, also beside a torchvision that does not load."""

from typing import Any

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES, import_beside_torchvision


def load_vq_model() -> type[Any]:
    """The class ``diffusers.VQModel``.

    Raises:
        MissingLibraryError: if diffusers is not installed, or does not load.
    """
    try:
        model: type[Any] = import_beside_torchvision("diffusers.models.autoencoders.vq_model").VQModel
    except FAILURES as error:
        raise MissingLibraryError(
            f"the VQGAN is built by diffusers, which does not load ({type(error).__name__}: {error}). "
            'Install it with libraries that fit each other: pip install --upgrade "dimo[vqgan]"'
        ) from error
    return model
