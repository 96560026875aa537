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
from torch import Tensor

from dimo_core.errors import CheckpointError, ConfigError
from dimo_core.files.cache import check_folder, is_there, local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.foreign import ForeignFile, read_foreign
from dimo_core.files.state import card_of
from dimo_core.files.urls import local_path
from dimo_core.files.weight_files import ENDINGS, is_weights_file, split_key
from dimo_core.files.weights import digest_tensors, read_tensors
from dimo_core.files.yaml_text import YamlFault, parsed
from dimo_maskgit.samplings import SAMPLINGS
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.tokenizers import load_tokenizer
from dimo_maskgit.transformer import PUBLISHED, Architecture
from dimo_maskgit.vqgan import Vqgan
from dimo_maskgit.vqgan_config import VqganConfig

FORMAT = "dimo-maskgit/1"
CARD, NETWORK, TOKENIZER = "teacher.yaml", "network.safetensors", "tokenizer.safetensors"

ENTRIES: Mapping[str, Any] = {
    "network.classes": int, "tokenizer": dict, "classes": list, "recipes": str,
    "evaluation": (dict, type(None)), f"sha256.{NETWORK}": str, f"sha256.{TOKENIZER}": str
}  # fmt: skip
"""What the card must hold."""

PUBLISHED_HEADS = {(PUBLISHED.width, PUBLISHED.depth, PUBLISHED.mlp): PUBLISHED.heads}
"""Heads by width, depth and mlp; the networks for 256 and for 512 pixels are alike in these."""

VQGAN_NAME = "decoder.conv_in.weight"
"""A tensor that tells Taming's VQGAN from other files."""

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
        provenance: Says where each part came from, and its SHA-256.
        check: Raises ``CheckpointError`` when a file is missing; weights are not read.
    """

    card: Mapping[str, Any]
    network: Callable[[], Mapping[str, Tensor]]
    tokenizer: Callable[[], Tokenizer]
    provenance: Callable[[], Mapping[str, str]]
    check: Callable[[], None]


def folder_parts(url: str, name: str) -> Parts:
    """The parts of a teacher folder.

    Args:
        url: The folder, a path or fsspec URL.
        name: What to call it in ``provenance``.

    Raises:
        CheckpointError: when it is no teacher folder.
    """
    folder = Folder(url)
    check_folder(url, WHAT_IS_NEEDED, ENDINGS)
    if not is_there(folder.path(CARD), certain=True):
        raise CheckpointError(f"no teacher in {url!r}: {CARD} is missing. {WHAT_IS_NEEDED}")
    card = card_of(local_copy(folder.path(CARD)).read_bytes(), folder.path(CARD), FORMAT, ENTRIES)
    names, classes = card["classes"], card["network"]["classes"]
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{folder.path(CARD)} is damaged: it has not the names of {classes} classes")
    if (scale := card["recipes"]) not in SAMPLINGS:
        raise CheckpointError(f"{folder.path(CARD)}: recipes {scale!r} are none of {', '.join(SAMPLINGS)}")
    digests = {file: card["sha256"][file] for file in (NETWORK, TOKENIZER)}
    spec, origin = card["tokenizer"], card.get("converted_from") or {}

    def tensors(file: str) -> dict[str, Tensor]:
        return read_tensors(folder, file, digests[file], cached=True)

    def check() -> None:
        for file in digests:
            if not is_there(folder.path(file), certain=True):
                raise CheckpointError(f"no file {folder.path(file)}: the teacher folder is not complete")

    return Parts(
        card=card,
        check=check,
        network=lambda: tensors(NETWORK),
        tokenizer=lambda: load_tokenizer(spec, tensors(TOKENIZER), folder.path(TOKENIZER)),
        provenance=lambda: {
            "folder": name,
            **digests,
            **{f"{file} before conversion": origin[file] for file in digests if file in origin},
        },
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
        if local_path(network) is not None:
            _foreign(network)  # what is no weights file needs no tokenizer
        raise CheckpointError(
            f"{network} is a transformer; the tokenizer that belongs to it is missing. {WHAT_IS_NEEDED}"
        )
    file, vqgan = _foreign(network), read_tokenizer(tokenizer)
    architecture = infer_architecture(file.shapes(), vqgan.codes, heads, network)
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
        check=lambda: None,  # both files were found above
        network=file.state_dict,
        tokenizer=lambda: vqgan,
        provenance=lambda: {
            "network": network,
            "tokenizer": tokenizer,
            NETWORK: file.sha256,
            **digest_of(vqgan),
        },
    )


def digest_of(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokenizer's entry in ``provenance``: the SHA-256 of the file that ``save`` would write."""
    return {TOKENIZER: digest_tensors(tokenizer.state_dict())}


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
            + (" That is a VQGAN, which --teacher.tokenizer takes." if VQGAN_NAME in shapes else "")
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
        if is_there(folder.path(CARD)):
            return folder_parts(url, url).tokenizer()
        if not is_there(folder.path("last.ckpt"), certain=True):
            raise CheckpointError(
                f"no tokenizer in {url!r}: neither {CARD} nor last.ckpt is there. {WHAT_IS_NEEDED}"
            )
        return read_tokenizer(folder.path("last.ckpt"))
    file = _foreign(url)
    if VQGAN_NAME not in (shapes := file.shapes()):
        raise CheckpointError(
            f"{url} does not hold Taming's VQGAN: {VQGAN_NAME} is missing."
            + (
                " It is a MaskGIT transformer, which --teacher.checkpoint or --generator.init takes."
                if "tok_emb.weight" in shapes
                else f" It holds: {', '.join(sorted(shapes)[:6])} ..."
            )
        )
    plain = split_key(url)[0].partition("?")[0] if "://" in url else split_key(url)[0]
    beside, config = Folder(plain.rpartition("/")[0] or "."), None
    if is_there(beside.path("model.yaml"), certain=True):  # without it, the sizes would be others
        source = beside.path("model.yaml")
        try:
            data = parsed(local_copy(source).read_bytes())
        except YamlFault as error:
            raise CheckpointError(f"{source} is no YAML file: {error}") from error
        config = VqganConfig.from_model_yaml(data, source)
    return Vqgan.from_taming(file.state_dict(), config, url)


def _foreign(url: str) -> ForeignFile:
    """A published file; where it is missing, the error says what is needed."""
    try:
        return read_foreign(url)
    except CheckpointError as error:
        if str(error).startswith("no file"):
            raise CheckpointError(f"{error}. {WHAT_IS_NEEDED}") from error
        raise


def read_names(url: str, count: int) -> list[str]:
    """Class names of a text file (one a line) or a JSON list.

    Raises:
        ConfigError: when there are not exactly ``count`` distinct ones.
    """
    try:
        text = local_copy(url).read_text(encoding="utf-8-sig")
        listed = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{url} is no list of class names, in UTF-8 or JSON: {error}") from error
    names = [name for name in (str(entry).strip() for entry in listed) if name]
    if len(set(names)) != count or len(names) != count:
        raise ConfigError(
            f"{url} holds {len(names)} class names, {len(set(names))} of them distinct; "
            f"the network has {count} classes"
        )
    return names
