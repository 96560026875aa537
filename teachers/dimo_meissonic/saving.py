"""Writing a teacher folder: the published layout, and a card with the SHA-256 of each file."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.files.folder import Folder
from dimo_core.files.weights import check_finite, sha256, write_tensors
from dimo_meissonic.files import CARD, FORMAT, TEXT, TOKENIZER, TRANSFORMER, VQVAE, WEIGHTS, Part
from dimo_meissonic.text import text_tensors


def write_folder(
    folder: Folder,
    *,
    network: Backbone,
    vqvae: Part,
    text: tuple[Mapping[str, Any], Part],
    vocabulary: Mapping[str, bytes],
    card: Mapping[str, Any],
) -> None:
    """Write all parts of a teacher; the card comes last and makes the folder complete.

    Args:
        folder: Where.
        network: The transformer, holding the weights to save.
        vqvae: The image tokenizer, copied.
        text: The text tower's configuration, and its weights; a whole CLIP's image tower is left out.
        vocabulary: The tokenizer's files, copied.
        card: What else to write down.

    Raises:
        NumericalError: when weights of a part that is copied hold NaN or infinity; nothing is written then.
    """
    config, part = text
    images, words = in_fp32(vqvae.tensors()), in_fp32(text_tensors(part.tensors()))
    check_finite(vqvae.source, images)
    check_finite(part.source, words)
    digests: dict[str, str] = {}

    def write(name: str, data: bytes) -> None:
        folder.write(name, data)
        digests[name] = sha256(data)

    def write_weights(part: str, tensors: Mapping[str, Tensor]) -> None:
        name = f"{part}/{WEIGHTS[part][0]}"
        digests[name] = write_tensors(folder, name, tensors, {"format": "pt"})

    write(f"{TRANSFORMER}/config.json", network.to_json_string().encode())  # type: ignore[operator]
    write_weights(TRANSFORMER, network.state_dict())
    write(f"{VQVAE}/config.json", _json(vqvae.config))
    write_weights(VQVAE, images)
    write(f"{TEXT}/config.json", _json(config))
    write_weights(TEXT, words)
    for name, data in vocabulary.items():
        write(f"{TOKENIZER}/{name}", data)
    folder.write_yaml(CARD, {"format": FORMAT, **card, "sha256": digests})


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(config), indent=2, sort_keys=True) + "\n").encode()


def in_fp32(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same numbers as they are written."""
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
