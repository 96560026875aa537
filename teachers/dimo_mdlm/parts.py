"""Where the parts of an MDLM teacher come from: a folder of dimo's, the published one, or a weights file.

A folder of dimo's holds ``teacher.yaml``, and beside it what the published folder holds, ``config.json`` and
``model.safetensors``, and the files of a tokenizer. `dimo convert` makes one of anything that is read here.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import attrs
from torch import Tensor

from dimo_core.errors import CheckpointError, ConfigError, message
from dimo_core.files.cache import check_folder, is_there, local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.foreign import read_foreign
from dimo_core.files.state import card_of
from dimo_core.files.weight_files import ENDINGS, is_weights_file, split_key
from dimo_core.files.weights import read_tensors, sha256
from dimo_mdlm.architecture import Architecture
from dimo_mdlm.files import bare, checked, infer_architecture, read_config, state_of, with_options
from dimo_mdlm.recipes import RECIPES
from dimo_mdlm.tokenizer import Tokenizer, read_tokenizer

FORMAT = "dimo-mdlm/1"
CARD, CONFIG, NETWORK = "teacher.yaml", "config.json", "model.safetensors"

ENTRIES: Mapping[str, Any] = {
    "network": dict, "classes": list, "recipes": str, "evaluation": (dict, type(None)), "tokenizer": list,
    f"sha256.{NETWORK}": str
}  # fmt: skip
"""What the card must hold."""

WHAT_IS_NEEDED = (
    "--teacher.checkpoint names a folder of `dimo pretrain` or `dimo convert`, a folder with config.json and "
    "model.safetensors such as hf://kuleshov-group/mdlm-owt, or a weights file"
)


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The parts of a teacher; weights are read when they are called for.

    Attributes:
        architecture: Sizes of the network.
        card: ``classes``, ``recipes`` and ``evaluation``, as ``teacher.yaml`` has them.
        network: Reads the network's parameters.
        tokenizer: Reads the tokenizer; None where there is none.
        provenance: Says where each part came from, and its SHA-256.
        check: Raises ``CheckpointError`` when a file is missing; weights are not read.
    """

    architecture: Architecture
    card: Mapping[str, Any]
    network: Callable[[], Mapping[str, Tensor]]
    tokenizer: Callable[[], Tokenizer | None]
    provenance: Callable[[], Mapping[str, str]]
    check: Callable[[], None]


@attrs.frozen(kw_only=True)
class Wanted:
    """What the options of a teacher say of files that tell less than a folder of dimo's.

    Attributes:
        url: The folder or file.
        tokenizer: Folder of a tokenizer; None for the one beside the weights.
        heads: Attention heads.
        length: Tokens of a sample.
        timed: Whether the network is told how much is masked; None for what ``config.json`` says.
    """

    url: str
    tokenizer: str | None
    heads: int | None
    length: int | None
    timed: bool | None


def pinned(url: str, revision: str | None) -> str:
    """A URL of the Hugging Face Hub with its revision: ``hf://owner/name@revision``.

    Raises:
        ConfigError: for a revision of what is not on the Hub, or has one already.
    """
    if revision is None:
        return url
    owner, _, rest = url.removeprefix("hf://").partition("/")
    name, slash, path = rest.partition("/")
    if not url.startswith("hf://") or "@" in name or not name:
        raise ConfigError(
            f"--teacher.revision {revision} goes with an address hf://OWNER/NAME without one, not {url!r}"
        )
    return f"hf://{owner}/{name}@{revision}{slash}{path}"


def parts_of(wanted: Wanted) -> Parts:
    """The parts of a teacher, wherever they are.

    Raises:
        CheckpointError: when a file is missing, damaged or of another model.
        ConfigError: when an option is missing, or contradicts a file.
    """
    if is_weights_file(wanted.url):
        plain = (
            split_key(wanted.url)[0].partition("?")[0] if "://" in wanted.url else split_key(wanted.url)[0]
        )
        return _foreign_parts(wanted, wanted.url, Folder(plain.rpartition("/")[0] or "."))
    folder = Folder(wanted.url)
    check_folder(wanted.url, WHAT_IS_NEEDED, ENDINGS)
    if is_there(folder.path(CARD)):
        return _folder_parts(folder, wanted)
    if wanted.url.startswith("hf://") or is_there(folder.path(CONFIG), certain=True):
        local_copy(folder.path(CONFIG))  # whose error tells of a missing library, or of a folder that is none
        return _foreign_parts(wanted, folder.path(NETWORK), folder)
    raise CheckpointError(
        f"no teacher in {wanted.url!r}: neither {CARD} nor {CONFIG} is there. {WHAT_IS_NEEDED}"
    )


def _folder_parts(folder: Folder, wanted: Wanted) -> Parts:
    """Those of a folder that dimo wrote."""
    source = folder.path(CARD)
    card = card_of(local_copy(source).read_bytes(), source, FORMAT, ENTRIES)
    try:
        architecture = Architecture(**card["network"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: wrong section 'network': {message(error)}") from error
    for name in ("heads", "timed"):
        if getattr(wanted, name) is not None:
            option = "time_conditioning" if name == "timed" else name
            raise ConfigError(f"--teacher.{option} goes with weights of others; {wanted.url!r} needs it not")
    if len(card["classes"]) != architecture.classes or card["recipes"] not in RECIPES:
        raise CheckpointError(
            f"{source} is damaged: it has not the names of {architecture.classes} classes, or recipes that "
            f"are none of {', '.join(RECIPES)}"
        )
    digests = {name: card["sha256"].get(name) for name in (NETWORK, *card["tokenizer"])}

    def tensors() -> dict[str, Tensor]:
        stored = read_tensors(folder, NETWORK, digests[NETWORK], cached=True)
        return checked({bare(name): t for name, t in stored.items()}, architecture, folder.path(NETWORK))

    def tokenizer() -> Tokenizer | None:
        found = read_tokenizer(wanted.tokenizer or folder.url)
        own = {} if found is None or wanted.tokenizer else found.files
        if wrong := [name for name, data in own.items() if sha256(data) != digests.get(name)]:
            raise CheckpointError(f"{folder.path(wrong[0])} is damaged: its SHA-256 is not that of {CARD}")
        return found

    def check() -> None:
        for name in digests:
            if not is_there(folder.path(name), certain=True):
                raise CheckpointError(f"no file {folder.path(name)}: the teacher folder is not complete")

    origin = card.get("converted_from") or {}
    before = {f"{name} before conversion": origin[name] for name in digests if name in origin}
    return Parts(
        architecture=with_options(architecture, length=wanted.length),
        card=card,
        network=tensors,
        tokenizer=tokenizer,
        provenance=lambda: {"folder": folder.url, **digests, **before},
        check=check,
    )


def _foreign_parts(wanted: Wanted, url: str, beside: Folder) -> Parts:
    """Those of a weights file of others, with ``config.json`` and the files of a tokenizer beside it."""
    file = cache(lambda: read_foreign(url))
    state, config = cache(lambda: state_of(file())), beside.path(CONFIG)
    if is_there(config):
        architecture = with_options(
            Architecture.from_config(read_config(config), config),
            heads=wanted.heads,
            length=wanted.length,
            time_conditioning=wanted.timed,
        )
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in state().items()}
        how: dict[str, Any] = {"heads": wanted.heads, "length": wanted.length, "timed": bool(wanted.timed)}
        architecture = infer_architecture(shapes, url, **how)

    def check() -> None:
        if not is_there(split_key(url)[0], certain=True):
            raise CheckpointError(f"no file {url}: the weights that {config} describes are missing")

    classes = map(str, range(architecture.classes))
    return Parts(
        architecture=architecture,
        card={"classes": [*classes], "recipes": "text", "evaluation": None},
        network=lambda: checked(state(), architecture, url),
        tokenizer=lambda: read_tokenizer(wanted.tokenizer or beside.url),
        provenance=lambda: {"network": url, NETWORK: file().sha256},
        check=check,
    )
