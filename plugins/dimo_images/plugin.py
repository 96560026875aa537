"""Registers images from folders, shards and arrays."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "data", "image-folder", "dimo_images.folder:ImageFolder", summary="a folder of images for each class"
    )
    register(
        "data",
        "image-shards",
        "dimo_images.shards:ImageShards",
        summary="images with labels in tar files (webdataset), read as a stream",
    )
    register(
        "data",
        "arrays",
        "dimo_images.arrays:Arrays",
        summary="images and labels in a .safetensors or .npz file",
    )
