"""Weights of MDLM networks in files: the published container, and what trainers write.

All hold the names of :mod:`dimo_mdlm.network` under the prefix ``backbone.``, sometimes twice, and the buffer
``rotary_emb.inv_freq``, whose length alone tells the number of heads. Lightning checkpoints have the average,
which is what is sampled, as a list without names, ``ema.shadow_params``, in the order of the parameters.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from loguru import logger
from torch import Tensor

from dimo_core import limits
from dimo_core.errors import CheckpointError, ConfigError
from dimo_core.files.cache import local_copy
from dimo_core.files.foreign import ForeignFile
from dimo_mdlm.architecture import Architecture
from dimo_mdlm.network import inverse_frequencies

PREFIX = "backbone."
"""Before every name in a published file."""

INV_FREQ = "rotary_emb.inv_freq"
"""The one buffer of the published files; the network computes it."""

AVERAGE = ("ema", "shadow_params")
"""Where Lightning checkpoints have their average."""

LENGTH, DROPOUT = 1024, 0.1
"""Of every published network; no weights file holds them."""


def bare(name: str) -> str:
    """A name without its prefixes."""
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name


def state_of(file: ForeignFile) -> dict[str, Tensor]:
    """The weights in a file, with the average in place of the raw ones where the file has one.

    Args:
        file: A foreign file; with a key (``FILE::state_dict``) it is the set of this name that is taken.

    Returns:
        Tensors by the network's names, ``rotary_emb.inv_freq`` among them where it is there.

    Raises:
        CheckpointError: when there are none, or the average has not the shapes of the weights.
    """
    state = {bare(name): tensor for name, tensor in file.state_dict().items()}
    average = None if file.key else file.sequence(*AVERAGE)
    if average is None:
        return state
    names = [name for name in state if name != INV_FREQ]
    raw, mean = ([[*t.shape] for t in tensors] for tensors in ([state[n] for n in names], average))
    if raw != mean:
        raise CheckpointError(
            f"{file.source}: its average, {'.'.join(AVERAGE)}, has {len(average)} tensors, which are not of "
            f"the shapes of its {len(names)} weights. {file.source}::state_dict takes the weights without it"
        )
    logger.info("{}: the average of the weights is taken; {}::state_dict is as trained", *[file.source] * 2)
    return state | dict(zip(names, average, strict=True))


def checked(state: Mapping[str, Tensor], architecture: Architecture, source: str) -> dict[str, Tensor]:
    """The parameters of a network: without the frequencies, which are compared with their formula.

    Raises:
        CheckpointError: when they differ, as those of another number of heads do.
    """
    parameters = {**state}
    found, head = parameters.pop(INV_FREQ, None), architecture.width // architecture.heads
    if found is not None:
        expected = inverse_frequencies(head)
        if found.shape != expected.shape or not torch.allclose(found.float(), expected, rtol=1e-3, atol=0):
            raise CheckpointError(
                f"{source}: {INV_FREQ} holds {found.numel()} numbers; heads of width {head} rotate by "
                f"10000^(-2j/{head}), {head // 2} numbers. The number of heads or the rotation is another"
            )
    return parameters


def infer_architecture(
    shapes: Mapping[str, Sequence[int]], source: str, *, heads: int | None, length: int | None, timed: bool
) -> Architecture:
    """Sizes of a network from the shapes of its tensors, where no ``config.json`` tells them.

    Args:
        shapes: By the network's names.
        source: Their file, for messages.
        heads: Attention heads; None where the file has ``rotary_emb.inv_freq``.
        length: Tokens of a sample; None for the published 1024.
        timed: Whether the network is told how much is masked.

    Raises:
        CheckpointError: when these are not the tensors of an MDLM network.
        ConfigError: when the number of heads is not known, or not possible.
    """
    try:
        ids, width = shapes["vocab_embed.embedding"]
        conditioning = shapes["sigma_map.mlp.2.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{source} holds no MDLM network: vocab_embed.embedding or sigma_map.mlp.2.weight is missing. It "
            f"holds: {', '.join(sorted(shapes)[:6])} ..."
        ) from error
    depth = sum(name.startswith("blocks.") and name.endswith(".attn_qkv.weight") for name in shapes)
    rotary = shapes.get(INV_FREQ)
    if rotary is None and heads is None:
        raise ConfigError(
            f"{source} has neither {INV_FREQ} nor a config.json beside it, and no other tensor tells its "
            "number of attention heads; a wrong one gives garbage without an error. Say --teacher.heads "
            "(published: 12)"
        )
    try:
        return Architecture(
            width=width,
            depth=depth,
            heads=heads or width // (2 * (rotary or (1,))[0]),
            conditioning=conditioning,
            codes=ids - 1,
            length=length or LENGTH,
            dropout=DROPOUT,
            time_conditioning=timed,
            classes=shapes.get("label_embed.weight", (1,))[0] - 1,
        )
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def read_config(url: str) -> Any:
    """The content of a ``config.json``.

    Raises:
        CheckpointError: when it is missing or no JSON.
    """
    path = local_copy(url)
    try:
        if path.stat().st_size > limits.YAML:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{url} is no configuration: {error}") from error


def published(parameters: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """The tensors as the published container names them, with the frequencies."""
    named = {f"{PREFIX}{name}": tensor for name, tensor in parameters.items()}
    return {**named, f"{PREFIX}{INV_FREQ}": inverse_frequencies(architecture.width // architecture.heads)}


def with_options(architecture: Architecture, **options: Any) -> Architecture:
    """Sizes with those that an option names in place of the file's.

    Raises:
        ConfigError: for an impossible one.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return attrs.evolve(architecture, **given)
    except ValueError as error:
        raise ConfigError(f"--teacher.{', --teacher.'.join(given)}: {error}") from error
