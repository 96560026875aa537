"""Fitting the text tower of a small teacher: CLIP's contrastive training, and two lessons that bind words.

Contrast needs to know what is in a picture, hardly where: a batch seldom has another caption of the same
words in another order. A linear probe of prompts' embeddings then finds the colour on the left in 50 % of
captions with two colours, which is guessing, and the transformer draws the right digits in the wrong places.

Two further networks therefore read the same embedding. One tells the caption again, word by word, so that the
order of words is in it; the other paints the picture, and comes to the average picture of the caption, each
digit in its colour and place. Painting alone does not get there: it has to find out who is first and what
that means at once, and stays where it began. All networks but the tower are thrown away.
"""

import math
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

TELL, PAINT = 2.0, 4.0
"""Weights of the told words' cross-entropy, and of the painted pictures' error in units of variance."""

HIDDEN, WORD, PAINTED = 256, 32, 16
"""Width of teller and painter, numbers of a told word, and sides of painted pictures at most."""

TINY = 1e-6
"""The least variance of pictures."""

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


class Teller(nn.Sequential):
    """Embeddings of prompts to the prompts: logits of each word."""

    def __init__(self, width: int, length: int, vocabulary: int) -> None:
        """Untrained.

        Args:
            width: Numbers of an embedding.
            length: Words of a prompt.
            vocabulary: Entries of the tokenizer.
        """
        super().__init__(
            nn.Linear(width, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, length * WORD),
            nn.Unflatten(1, (length, WORD)),
            nn.Linear(WORD, vocabulary),
        )


class Painter(nn.Sequential):
    """Embeddings of prompts to small pictures."""

    def __init__(self, width: int, shape: tuple[int, int, int]) -> None:
        """Untrained.

        Args:
            width: Numbers of an embedding.
            shape: Channels, height and width of the pictures.
        """
        super().__init__(
            nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, math.prod(shape)), nn.Unflatten(1, shape)
        )


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
    """The weights of a ``CLIPTextModelWithProjection`` that knows which image goes with a caption.

    Args:
        options: Length and rate of the fit.
        config: Of the tower.
        ids: Caption of each image, as the tokenizer gives them; equal ones all count as right.
        images: The images.
        seed: Seed of weights and order.
    """
    configuration = library("transformers.models.clip.configuration_clip").CLIPTextConfig
    cls = library("transformers.models.clip.modeling_clip").CLIPTextModelWithProjection
    width, (high, wide) = config["projection_dim"], (min(side, PAINTED) for side in images.shape[2:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "text tower"))
        tower: nn.Module = cls(configuration.from_dict(dict(config))).float()
        pictures, painter = ImageNetwork(width), Painter(width, (3, high, wide))
        teller = Teller(width, ids.shape[1], config["vocab_size"])
    learners = nn.ModuleList([tower, pictures, painter, teller])
    learners.register_parameter("scale", nn.Parameter(torch.tensor(SCALE).log()))
    fit = Fit(learners, steps=options.steps, lr=options.lr, name="text tower")
    batches = Batches(len(ids), options.batch_size, seed=seed, name="text tower")
    for step in range(options.steps):
        rows = batches.rows(step)
        words, distinct = ids[rows].unique(dim=0, return_inverse=True)
        said, x = tower(input_ids=words).text_embeds, images[rows].float() / 127.5 - 1
        scale = learners.get_parameter("scale").exp().clamp(max=100)
        z = scale * F.normalize(said, dim=-1)[distinct] @ F.normalize(pictures(x), dim=-1).T
        small = F.adaptive_avg_pool2d(x, (high, wide))
        unlike = F.mse_loss(painter(said)[distinct], small) / small.var(0).mean().clamp_min(TINY)
        mistold = F.cross_entropy(teller(said).flatten(0, 1), words.flatten())
        shown = {"matched": _matched(z, distinct), "mistold": mistold, "unlike": unlike}
        fit.update(contrast(z, distinct) + TELL * mistold + PAINT * unlike, shown)
    logger.info("text tower: fitted on {} captions", len(ids))
    state = tower.eval().state_dict()
    return {name: t.detach() for name, t in state.items() if not name.endswith("position_ids")}


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
