"""Fitting the image tokenizer of a small teacher: a ``VQModel`` of diffusers, on images in [0, 1].

Latents are pulled towards the pixels of their own patch. Left alone, the encoder hides in plain ground what
it knows of the digits beside it: pictures come back sharper, but tokens of the ground, two thirds of all,
then have an entropy of 4.2 nats (0.03 with the pull), and no transformer can say which one comes next.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from loguru import logger
from torch import Tensor, nn

from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_meissonic.fitting import Batches, Fit
from dimo_meissonic.libraries import library
from dimo_meissonic.pretraining import GROUPS, ImageFit

LOCAL = 50.0
"""Weight of the pull towards the own patch, and of the quantiser's loss."""

NEAR = 0.1
"""Codes that differ by less, over all pixels of a patch in [0, 1], are one too many."""

TINY = 1e-12
"""Keeps the chances of patches positive."""

REVIEW = 50
"""Steps between reviews of the codes; until two thirds of the fit, unused ones are moved."""


def image_config(options: ImageFit) -> dict[str, Any]:
    """``vqvae/config.json``, with the entries of the published one."""
    levels = options.factor.bit_length()
    return {
        "_class_name": "VQModel",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [options.channels, *[2 * options.channels] * (levels - 1)],
        "layers_per_block": options.layers,
        "act_fn": "silu",
        "latent_channels": 3 * options.factor**2,
        "num_vq_embeddings": options.codes,
        "norm_num_groups": GROUPS,
        "vq_embed_dim": None,
        "norm_type": "group",
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
        "force_upcast": True,
    }


def fit_images(options: ImageFit, images: UInt8[Tensor, "N C H W"], *, seed: int) -> dict[str, Tensor]:
    """The weights of a ``VQModel`` for these images.

    Squared and absolute errors of the pixels, the quantiser's own loss, and the pull described above. Codes
    that nothing uses, or that double others, are moved to patches of the batch at hand.

    Raises:
        UsageError: for images without three channels, or of sides that ``factor`` does not divide.
    """
    if images.shape[1] != 3 or images.shape[2] % options.factor or images.shape[3] % options.factor:
        raise UsageError(
            f"images of {list(images.shape[1:])} (channels, height, width) do not divide into tokens of three"
            f" channels and {options.factor} x {options.factor} pixels. Set --model.images.factor."
        )
    cls = library("diffusers.models.autoencoders.vq_model").VQModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "image tokenizer"))
        model: nn.Module = cls.from_config(image_config(options))
    codebook: nn.Parameter = model.get_parameter("quantize.embedding.weight")
    fit = Fit(model, steps=options.steps, lr=options.lr, name="image tokenizer")
    batches = Batches(len(images), options.batch_size, seed=seed, name="image tokenizer")
    uses = torch.zeros(options.codes)
    for step in range(options.steps):
        x = images[batches.rows(step)].float() / 255
        z, own = model.encode(x).latents, F.pixel_unshuffle(x, options.factor)  # type: ignore[operator]
        if step % REVIEW == 0 and step <= options.steps * 2 // 3:
            _replace(codebook, _spare(codebook, uses), own, batches.generator(step))
            uses.zero_()
        z_q, loss, (_, _, codes) = model.quantize(z)  # type: ignore[operator]
        uses += codes.flatten().bincount(minlength=options.codes)
        y = model.decoder(model.post_quant_conv(z_q))  # type: ignore[operator]
        error = F.mse_loss(y, x)
        fit.update(10 * error + F.l1_loss(y, x) + LOCAL * (F.mse_loss(z, own) + loss), {"mse": error})
    model.eval()
    logger.info("image tokenizer: {:.1f} dB, {} of {} codes", *_quality(model, images[:1000]), options.codes)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def _spare(codebook: nn.Parameter, uses: Float[Tensor, " K"]) -> Bool[Tensor, " K"]:
    """Codes that were not used, or lie beside one that was used more."""
    order = uses.argsort(descending=True, stable=True)
    near = (torch.cdist(codebook[order], codebook[order]) < NEAR).tril(-1).any(1)
    return (uses == 0) | torch.zeros_like(near).scatter(0, order, near)


@torch.no_grad()
def _replace(
    codebook: nn.Parameter,
    unused: Bool[Tensor, " K"],
    patches: Float[Tensor, "B D h w"],
    draw: torch.Generator,
) -> None:
    """Put patches in the place of unused codes, each drawn by its squared distance from all (k-means++)."""
    rows = patches.permute(0, 2, 3, 1).flatten(0, 2)
    distance = torch.ones(len(rows))
    if not bool(unused.all()):
        distance = torch.cdist(rows, codebook[~unused]).min(1).values.square()
    for code in torch.where(unused)[0].tolist():
        codebook[code] = rows[torch.multinomial(distance + TINY, 1, generator=draw)[0]]
        distance = distance.minimum((rows - codebook[code]).square().sum(1))


@torch.no_grad()
def _quality(model: Any, images: UInt8[Tensor, "N 3 H W"]) -> tuple[float, int]:
    """Signal to noise in dB, and the number of codes in use."""
    x = images.float() / 255
    z_q, _, (_, _, codes) = model.quantize(model.encode(x).latents)
    y = model.decoder(model.post_quant_conv(z_q)).clamp(0, 1)
    return float(-10 * F.mse_loss(y, x).log10()), len(codes.unique())
