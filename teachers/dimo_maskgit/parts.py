"""Where the parts of a MaskGIT teacher come from: a folder that dimo wrote, or the published files.

A folder holds ``teacher.yaml``, ``network.safetensors`` and ``tokenizer.safetensors``. The published files
are the transformer (MaskGIT-pytorch's ``.pth`` container, or a bare state dict as Di[M]O publishes its
generator) and Taming's VQGAN (``last.ckpt`` beside ``model.yaml``); `dimo convert` makes a folder of them.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import yaml
from torch import Tensor

from dimo_core.cache import local_copy
from dimo_core.errors import CheckpointError, ConfigError
from dimo_core.folder import Folder
from dimo_core.foreign import read_foreign
from dimo_core.weights_file import encode_tensors, read_tensors, sha256
from dimo_maskgit.tokenizer import Tokenizer, load_tokenizer
from dimo_maskgit.transformer import PUBLISHED, Architecture
from dimo_maskgit.vqgan import Vqgan
from dimo_maskgit.vqgan_config import VqganConfig

FORMAT = "dimo-maskgit/1"
CARD, NETWORK, TOKENIZER = "teacher.yaml", "network.safetensors", "tokenizer.safetensors"

WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""Names of foreign weights files end so; anything else is taken for a folder."""

PUBLISHED_HEADS = {(PUBLISHED.width, PUBLISHED.depth, PUBLISHED.mlp): PUBLISHED.heads}
"""Heads by width, depth and mlp; the networks for 256 and for 512 pixels are alike in these."""

WHAT_IS_NEEDED = (
    "The published teacher is two downloads from llvictorll/Maskgit-pytorch on the Hugging Face Hub, folder "
    "pretrained_maskgit: MaskGIT/MaskGIT_ImageNet_256.pth for --teacher.checkpoint, and VQGAN/last.ckpt with "
    "model.yaml beside it for --teacher.tokenizer; paths or URLs. `dimo convert` makes one folder of both. "
    "Without --teacher.checkpoint the embedded teacher of digits is used."
)


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The parts of a teacher; weights are read when they are called for.

    Attributes:
        card: What ``teacher.yaml`` holds.
        network: Reads the transformer's tensors.
        tokenizer: Reads the tokenizer.
        provenance: Where each part came from, and its SHA-256.
    """

    card: Mapping[str, Any]
    network: Callable[[], Mapping[str, Tensor]]
    tokenizer: Callable[[], Tokenizer]
    provenance: Mapping[str, str]


def is_weights_file(url: str) -> bool:
    """Whether a path or URL names a foreign weights file, and not a folder."""
    return url.endswith(WEIGHTS_SUFFIXES)


def folder_parts(url: str, name: str) -> Parts:
    """The parts of a teacher folder.

    Args:
        url: The folder, a path or fsspec URL.
        name: What to call it in ``provenance``.

    Raises:
        CheckpointError: when it is no teacher folder.
    """
    folder = Folder(url)
    try:
        card = folder.read_yaml(CARD)
    except (FileNotFoundError, NotADirectoryError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"no teacher in {url!r}: {CARD} is missing or unreadable. {WHAT_IS_NEEDED}"
        ) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{folder.path(CARD)} is not a teacher of the format {FORMAT!r}")
    try:
        digests = {file: str(card["sha256"][file]) for file in (NETWORK, TOKENIZER)}
        spec = card["tokenizer"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.path(CARD)} lacks the entry {error}") from error

    def tensors(file: str) -> dict[str, Tensor]:
        return read_tensors(folder, file, digests[file], cached=True)

    return Parts(
        card=card,
        network=lambda: tensors(NETWORK),
        tokenizer=lambda: load_tokenizer(spec, tensors(TOKENIZER), folder.path(TOKENIZER)),
        provenance={"folder": name, **digests},
    )


def published_parts(network: str, tokenizer: str | None, heads: int | None, class_names: str | None) -> Parts:
    """The parts of a teacher in its published files.

    Args:
        network: The transformer's weights file, a path or fsspec URL.
        tokenizer: The VQGAN, as ``read_tokenizer`` takes it.
        heads: Attention heads, for networks of another size than the published one.
        class_names: Text file with a class name a line; None numbers the classes.

    Raises:
        CheckpointError: when a file is missing, damaged or of another model.
        ConfigError: when ``heads`` is missing or impossible.
    """
    if tokenizer is None:
        raise CheckpointError(
            f"{network} is a transformer; the tokenizer that belongs to it is missing. {WHAT_IS_NEEDED}"
        )
    file, vqgan = read_foreign(network), read_tokenizer(tokenizer)
    tensors = file.state_dict()
    architecture = infer_architecture({n: t.shape for n, t in tensors.items()}, vqgan.codes, heads, network)
    vqgan = vqgan.at_grid(architecture.grid)
    names = [str(i) for i in range(architecture.classes)]
    if class_names:
        names = read_names(class_names, architecture.classes)
    return Parts(
        card={
            "format": FORMAT,
            "network": attrs.asdict(architecture),
            "tokenizer": vqgan.spec(),
            "classes": names,
            "recipes": "imagenet",
            "evaluation": None,
        },
        network=lambda: tensors,
        tokenizer=lambda: vqgan,
        provenance={
            "network": network,
            "tokenizer": tokenizer,
            NETWORK: file.sha256,
            **digest_of(vqgan),
        },
    )


def digest_of(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokenizer's entry in ``provenance``: the SHA-256 of the file that ``save`` would write."""
    return {TOKENIZER: sha256(encode_tensors(tokenizer.state_dict()))}


def infer_architecture(
    shapes: Mapping[str, Sequence[int]], codes: int, heads: int | None, source: str
) -> Architecture:
    """Sizes of a transformer from the shapes of its tensors.

    The number of heads shapes no tensor, and a wrong one would load and give garbage. It is therefore known
    for the published size, must be given for every other, and is never guessed.

    Raises:
        CheckpointError: when these are not the tensors of a MaskGIT transformer for ``codes`` codes.
        ConfigError: when ``heads`` is missing, or differs from the published number.
    """
    try:
        vocabulary, width = shapes["tok_emb.weight"]
        length = shapes["pos_emb"][1] - 1
        mlp = shapes["transformer.layers.0.1.fn.net.0.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{source} does not hold a MaskGIT-pytorch v1.0 transformer: tok_emb.weight, pos_emb or "
            f"transformer.layers.0... is missing. It holds: {', '.join(sorted(shapes)[:6])} ..."
        ) from error
    depth = sum(name.endswith(".0.fn.mha.in_proj_weight") for name in shapes)
    grid, classes = math.isqrt(length), vocabulary - codes - 2
    if grid**2 != length or classes < 1:
        raise CheckpointError(
            f"{source} has {length} visual tokens and {vocabulary} embeddings, which does not fit a square "
            f"grid and the {codes} codes of the tokenizer. Give the tokenizer it was trained with."
        )
    published = PUBLISHED_HEADS.get((width, depth, mlp))
    if published is None and heads is None:
        raise ConfigError(
            f"{source} is a network of width {width}, depth {depth}, mlp {mlp}. No tensor tells its number "
            "of attention heads, and a wrong one gives garbage without an error. Say --teacher.heads."
        )
    if published is not None and heads not in (None, published):
        raise ConfigError(
            f"--teacher.heads {heads} is wrong for {source}: the published network of width {width} and "
            f"depth {depth} has {published} heads. Leave the option out."
        )
    try:
        return Architecture(
            width=width,
            depth=depth,
            heads=int(published or heads or 0),
            mlp=mlp,
            dropout=PUBLISHED.dropout,  # no weights file holds it
            grid=grid,
            codes=codes,
            classes=classes,
        )
    except ValueError as error:
        raise ConfigError(f"--teacher.heads: {error}") from error


def read_tokenizer(url: str) -> Tokenizer:
    """A tokenizer from wherever it may be.

    Args:
        url: Taming's ``last.ckpt`` with ``model.yaml`` beside it, a folder with both, another weights file
            with Taming's names (without ``model.yaml``: of the published sizes), or a teacher folder.

    Raises:
        CheckpointError: when it is missing, damaged or of another model.
    """
    folder = Folder(url)
    if not is_weights_file(url):
        if folder.exists(CARD):
            return folder_parts(url, url).tokenizer()
        if not folder.exists("last.ckpt"):
            raise CheckpointError(
                f"no tokenizer in {url!r}: neither {CARD} nor last.ckpt is there. {WHAT_IS_NEEDED}"
            )
        return read_tokenizer(folder.path("last.ckpt"))
    beside = Folder(url.rpartition("/")[0] or ".")
    config = None
    if beside.exists("model.yaml"):
        config = VqganConfig.from_model_yaml(
            yaml.safe_load(local_copy(beside.path("model.yaml")).read_bytes())
        )
    return Vqgan.from_taming(read_foreign(url).state_dict(), config, url)


def read_names(url: str, count: int) -> list[str]:
    """Class names of a text file (one a line) or a JSON list.

    Raises:
        ConfigError: when there are not exactly ``count`` distinct ones.
    """
    text = local_copy(url).read_text(encoding="utf-8")
    names = (
        json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    )
    names = [str(name) for name in names if str(name)]
    if len(set(names)) != count or len(names) != count:
        raise ConfigError(
            f"{url} holds {len(names)} class names, {len(set(names))} of them distinct; "
            f"the network has {count} classes"
        )
    return names
