"""``Vqgan``: the tokenizer of the published teacher, its convolutions built by diffusers' ``VQModel``.

``VQModel`` is taming's VQGAN layer by layer: group norms of 32 groups with eps 1e-6, SiLU, single-head
attention in the middle and after each residual block of the levels in ``attn_resolutions``, downsampling
padded right and below, nearest upsampling. Only names differ, and taming writes the attention's
projections as 1x1 convolutions where diffusers has linear layers. Goldens of the published code and a
comparison of all names and sizes hold that.
"""

import re
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.weights import assign
from dimo_maskgit.diffusers_model import load_vq_model
from dimo_maskgit.tokenizer import Tokenizer
from dimo_maskgit.vqgan_config import VqganConfig


class Vqgan(Tokenizer):
    """Images in [0, 1] to codes and back through a VQGAN; ``state_dict`` has diffusers' names.

    What distillation needs is the decoder, the codebook and the convolution between them. A VQGAN without
    its encoder is therefore complete, but cannot encode.

    Args:
        config: Its sizes.
        encoder: Whether it has an encoder.

    Raises:
        MissingLibraryError: if diffusers is not installed, or does not load.
    """

    kind = "vqgan"
    chunk = 16

    def __init__(self, config: VqganConfig, *, encoder: bool = True) -> None:
        super().__init__()
        model = load_vq_model()(**config.vq_model_options())
        self.config = config
        self.channels, self.side = config.in_channels, config.resolution
        self.encoder = model.encoder if encoder else None
        self.quant_conv = model.quant_conv if encoder else None
        self.quantize = model.quantize
        self.post_quant_conv = model.post_quant_conv
        self.decoder = model.decoder

    @property
    def codebook(self) -> Float[Tensor, "K D"]:
        """The rows."""
        rows: Tensor = self.quantize.embedding.weight
        return rows

    @property
    def grid(self) -> int:
        """Side of the innermost level."""
        return self.config.sides[-1]

    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L D"]:
        """The encoder's output after its 1x1 convolution.

        Raises:
            UsageError: when there is no encoder.
        """
        if self.encoder is None or self.quant_conv is None:
            raise UsageError(
                "this VQGAN has no encoder: its file holds only what decoding needs. "
                "Convert the complete checkpoint to encode images."
            )
        z: Tensor = self.quant_conv(self.encoder(images.to(self.codebook.dtype) * 2 - 1))
        return z.flatten(2).transpose(1, 2)

    def pixels(self, vectors: Float[Tensor, "B L D"]) -> Float[Tensor, "B C H W"]:
        """The decoder's output, brought from about [-1, 1] to about [0, 1]."""
        z = vectors.to(self.codebook.dtype).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        images: Tensor = self.decoder(self.post_quant_conv(z.contiguous()))
        return (images + 1) / 2

    def spec(self) -> dict[str, Any]:
        """Kind and sizes."""
        return {"kind": self.kind, **self.config.as_spec()}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> "Vqgan":
        """The frozen VQGAN of a file that dimo wrote.

        Raises:
            CheckpointError: when description and tensors do not fit.
            MissingLibraryError: if diffusers is not installed, or does not load.
        """
        sizes = {name: value for name, value in spec.items() if name != "kind"}
        return cls._loaded(VqganConfig.from_spec(sizes, source), tensors, source)

    @classmethod
    def from_taming(cls, tensors: Mapping[str, Tensor], config: VqganConfig | None, source: str) -> "Vqgan":
        """The frozen VQGAN of taming's ``state_dict``; the training losses in it (``loss.*``) are left out.

        Args:
            tensors: The ``state_dict`` of ``last.ckpt``, with or without the encoder.
            config: Sizes, from ``model.yaml``; None stands for those of the published VQGAN.
            source: Where the tensors were read, for messages.

        Raises:
            CheckpointError: when sizes and tensors do not fit.
            MissingLibraryError: if diffusers is not installed, or does not load.
        """
        sizes = config or VqganConfig.published()
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
        try:
            return cls._loaded(sizes, _in_diffusers_names(kept, len(sizes.ch_mult)), source)
        except CheckpointError as error:
            advice = "Known names are shown as diffusers has them."
            if config is None:
                advice += (
                    " Without a model.yaml the sizes are those of the published ImageNet VQGAN "
                    "(256 pixels, 1024 codes); another one needs its model.yaml beside it."
                )
            raise CheckpointError(f"{error}\n{advice}") from error

    def at_grid(self, grid: int) -> "Vqgan":
        """The same networks for larger or smaller images, so that they have ``grid`` tokens per side.

        They are convolutional, and the teacher for 512 pixels uses those for 256. The tensors are shared.

        Raises:
            CheckpointError: when the sizes cannot be scaled so.
        """
        if grid == self.grid:
            return self
        sides = [self.side, *self.config.attn_resolutions]
        if any(side * grid % self.grid for side in sides):
            raise CheckpointError(
                f"a VQGAN of {self.grid} x {self.grid} tokens cannot give {grid} x {grid}: its sides {sides} "
                "do not scale. Give the tokenizer that the transformer was trained with."
            )
        side, *attention = (side * grid // self.grid for side in sides)
        config = attrs.evolve(self.config, resolution=side, attn_resolutions=attention)
        with torch.device("meta"):
            scaled = Vqgan(config, encoder=self.encoder is not None)
        scaled.load_state_dict(self.state_dict(), assign=True)
        return scaled.eval().requires_grad_(False)

    @classmethod
    def _loaded(cls, config: VqganConfig, tensors: Mapping[str, Tensor], source: str) -> "Vqgan":
        encoder = any(name.startswith("encoder.") for name in tensors)
        if not encoder:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("quant_conv.")}
        # On meta nothing is initialised, so no time is lost and no global random numbers are drawn.
        with torch.device("meta"):
            vqgan = cls(config, encoder=encoder)
        vqgan.to_empty(device="cpu")
        assign(vqgan, tensors, source)
        return vqgan.eval().requires_grad_(False)


_RENAMED = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
    "nin_shortcut": "conv_shortcut",
    "downsample": "downsamplers.0",
    "upsample": "upsamplers.0",
}
"""Parts of taming's names that diffusers has under another name."""

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
"""The same within an attention."""


def _in_diffusers_names(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Tensors under diffusers' names and shapes; unknown names stay as they are."""
    renamed = {}
    for name, tensor in tensors.items():
        new = _diffusers_name(name, levels)
        projects = re.search(r"\.(to_[qkv]|to_out\.0)\.weight$", new) is not None
        renamed[new] = tensor[:, :, 0, 0] if projects and tensor.shape[2:] == (1, 1) else tensor
    return renamed


def _diffusers_name(name: str, levels: int) -> str:
    """Taming counts the decoder's levels from full resolution, diffusers from the innermost."""

    def level(match: re.Match[str]) -> str:
        way, index, part, number = match.groups()
        block = levels - 1 - int(index) if way == "up" else int(index)
        inner = {"block": f".resnets.{number}", "attn": f".attentions.{number}"}.get(part, "")
        return f".{way}_blocks.{block}{inner}."

    name = re.sub(r"(?<=coder)\.(down|up)\.(\d+)(?:\.(block|attn)\.(\d+))?\.", level, name)
    for old, new in _RENAMED.items():
        name = re.sub(rf"(?<=\.){re.escape(old)}(?=\.)", new, name)
    if ".attentions." in name:
        name = re.sub(
            rf"\.({'|'.join(_ATTENTION)})\.(?=weight|bias)", lambda m: f".{_ATTENTION[m[1]]}.", name
        )
    return name
