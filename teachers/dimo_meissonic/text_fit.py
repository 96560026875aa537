"""Fitting the text tower of a small teacher: CLIP's contrastive training beside an image network.

The transformer sees the words *before* the tower's last layer, which contrast alone shapes only as far as the
whole prompt's embedding needs. Image and caption are therefore matched; the image network is thrown away.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from loguru import logger
from torch import Tensor, nn

from dimo_core.draws import stream_seed
from dimo_meissonic.fitting import Batches, Fit
from dimo_meissonic.libraries import library
from dimo_meissonic.pretraining import TextFit

SCALE = 10.0
"""The logits' scale at first, 1 / 0.1; it is learnt."""

CHANNELS = 32
"""Channels of the image network's first convolution."""


def tower_config(
    options: TextFit, *, vocabulary: Mapping[str, int], length: int, width: int
) -> dict[str, Any]:
    """``text_encoder/config.json``.

    Args:
        options: Sizes.
        vocabulary: Ids by entry; the last two are the marks.
        length: Tokens of a prompt, marks included.
        width: Numbers of a prompt's embedding.
    """
    size = len(vocabulary)
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": size,
        "hidden_size": options.width,
        "intermediate_size": 4 * options.width,
        "projection_dim": width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "max_position_embeddings": length,
        "hidden_act": "gelu",
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


class ImageNetwork(nn.Sequential):
    """Images to embeddings: three convolutions, pooled to 4 x 4, and a linear map of all that is left."""

    def __init__(self, width: int) -> None:
        """Untrained.

        Args:
            width: Numbers of an embedding.
        """
        convolutions = [
            nn.Conv2d(3, CHANNELS, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, 2, 1),
            nn.GELU(),
        ]
        super().__init__(
            *convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * CHANNELS, width)
        )


def fit_text(
    options: TextFit,
    config: Mapping[str, Any],
    ids: Int[Tensor, "N S"],
    images: UInt8[Tensor, "N 3 H W"],
    *,
    seed: int,
) -> dict[str, Tensor]:
    """The weights of a ``CLIPTextModelWithProjection`` that tells which caption goes with which image.

    Args:
        options: Length and rate of the fit.
        config: Of the tower.
        ids: Caption of each image, as the tokenizer gives them; equal ones all count as right.
        images: The images.
        seed: Seed of weights and order.
    """
    configuration = library("transformers.models.clip.configuration_clip").CLIPTextConfig
    cls = library("transformers.models.clip.modeling_clip").CLIPTextModelWithProjection
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "text tower"))
        tower: nn.Module = cls(configuration.from_dict(dict(config))).float()
        pictures = ImageNetwork(config["projection_dim"])
    pair = nn.ModuleDict({"tower": tower, "pictures": pictures})
    pair.register_parameter("scale", nn.Parameter(torch.tensor(SCALE).log()))
    fit = Fit(pair, steps=options.steps, lr=options.lr, name="text tower")
    batches = Batches(len(ids), options.batch_size, seed=seed, name="text tower")
    for step in range(options.steps):
        rows = batches.rows(step)
        words, distinct = ids[rows].unique(dim=0, return_inverse=True)
        said = F.normalize(tower(input_ids=words).text_embeds[distinct], dim=-1)
        shown = F.normalize(pictures(images[rows].float() / 127.5 - 1), dim=-1)
        z = said @ shown.T * pair.get_parameter("scale").exp().clamp(max=100)
        fit.update(contrast(z, distinct), {"matched": _matched(z, distinct)})
    logger.info("text tower: fitted on {} captions", len(ids))
    return {
        name: t.detach() for name, t in tower.eval().state_dict().items() if not name.endswith("position_ids")
    }


def contrast(z: Float[Tensor, "B B"], caption: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """CLIP's loss of captions (rows) and images, where pairs with one caption are all right.

    Args:
        z: Scaled similarities.
        caption: Number of each pair's caption.
    """
    alike = (caption[:, None] == caption).to(z.dtype)
    right = alike / alike.sum(1, keepdim=True)
    return (F.cross_entropy(z, right) + F.cross_entropy(z.T, right)) / 2


def _matched(z: Float[Tensor, "B B"], caption: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Share of images whose caption comes first."""
    return (caption[z.argmax(0)] == caption).double().mean().float()


def encode_words(tokenizer: Any, captions: Sequence[str], length: int) -> Int[Tensor, "N S"]:
    """Token ids of captions, filled up to ``length``."""
    ids: Tensor = tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
