"""``MeissonicTransformer``: the published network, assembled from parts of diffusers.

Blocks, rotary embedding and time embedding are those of Flux, token embedding and head those of aMUSEd. Keys,
shapes and the entries of ``config.json`` are the published ones, so ``from_pretrained`` and
``save_pretrained`` work on published folders.

Grids may be of any size. The blocks of a down-sampling network see 2 x 2 tokens as one; a side of odd length
gets one row of zeros below (or one column on the right), which is cut off again in the end, while the
published pipeline takes even sides only.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.tokens import Tokens
from dimo_meissonic.libraries import library
from dimo_meissonic.timestep import Clock

_flux = library("diffusers.models.transformers.transformer_flux")
_uvit = library("diffusers.models.unets.uvit_2d")
_embeddings = library("diffusers.models.embeddings")
_register_to_config = library("diffusers.configuration_utils").register_to_config

CLASS_NAME = "Transformer2DModel"
"""What the published ``config.json`` calls the class (a name that diffusers uses for something else, too)."""

MICRO = 5
"""Numbers of a micro-condition: width, height, two crops, score."""

EPS = 1e-6
"""Epsilon of every norm."""


class TokenEmbedding(_uvit.UVit2DConvEmbed):  # type: ignore[misc]
    """aMUSEd's embedding, norm and 1x1 convolution, on sequences, and for probabilities too."""

    def forward(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L D"]:
        """The point where Di[M]O adds noise."""
        if x.is_floating_point():
            rows = self.embeddings.weight[: x.shape[-1]]
            e = x.to(rows.dtype) @ rows
        else:
            e = self.embeddings(x)
        return F.linear(self.layer_norm(e), self.conv.weight[:, :, 0, 0])


class MeissonicTransformer(Backbone, _flux.ModelMixin, _flux.ConfigMixin):  # type: ignore[misc]
    """The network of the Meissonic teacher; arguments as in ``config.json``.

    Attributes:
        grid: Rows and columns of tokens; None takes any square.
        clock: Mask ratios to timesteps.
        gradient_checkpointing: Compute the blocks again in the backward pass instead of keeping their
            activations. No value changes.
    """

    gathers = True
    takes_extra = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ("FluxTransformerBlock", "FluxSingleTransformerBlock")

    @_register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = False,
        axes_dims_rope: list[int] | tuple[int, ...] = (16, 56, 56),
        vocab_size: int = 8256,
        codebook_size: int = 8192,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.grid: tuple[int, int] | None = None
        self.clock = Clock()
        self.gradient_checkpointing = False
        heads, head = num_attention_heads, attention_head_dim
        width = heads * head
        self._modules["embed"] = TokenEmbedding(width, width, vocab_size, True, EPS, False)
        self.down_block = _resampler("downsample", width) if downsample else None
        self.project_to_hidden_norm = _norm(width)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.pos_embed = _flux.FluxPosEmbed(theta=10000, axes_dim=list(axes_dims_rope))
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.encoder_proj_layer_norm = _norm(width)
        self.cond_embed = _embeddings.TimestepEmbedding(
            pooled_projection_dim + MICRO * 256, width, sample_proj_bias=False
        )
        self.time_text_embed = _flux.CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim)
        self.transformer_blocks = nn.ModuleList(
            _block(_flux.FluxTransformerBlock(width, heads, head)) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            _block(_flux.FluxSingleTransformerBlock(width, heads, head)) for _ in range(num_single_layers)
        )
        self.project_from_hidden_norm = _norm(width)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        self.up_block = _resampler("upsample", width) if upsample else None
        self.mlm_layer = _uvit.ConvMlmLayer(width, width, False, True, EPS, codebook_size)

    @property
    def embed(self) -> TokenEmbedding:
        """Token embeddings: a module, under its published name, in the place of the interface's method."""
        try:
            module = self._modules["embed"]
        except KeyError as error:
            raise AttributeError("embed") from error
        assert isinstance(module, TokenEmbedding)
        return module

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L D"],
        c: Mapping[str, Tensor],
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the tokens, up to the head's last convolution.

        Args:
            x: Token ids, or perturbed embeddings.
            c: ``text`` [B, S, J], ``pooled`` [B, D] and ``micro`` [B, 5].
            mask_ratio: Told to the network as ``clock`` says.
            extra: Further embedded tokens. They come after those that the blocks see of the grid, at the
                rotary position of the text, which is none.
        """
        e = x if x.is_floating_point() else self.embed(x)
        height, width = self._sides(e.shape[1])
        image = e.transpose(1, 2).unflatten(2, (height, width))
        if self.down_block is not None:
            image = self.down_block["downsample"](image)
        sides = (image.shape[2], image.shape[3])
        seen, further = image.flatten(2).transpose(1, 2), 0 if extra is None else extra.shape[1]
        if extra is not None:
            seen = torch.cat([seen, extra.to(seen.dtype)], 1)
        hidden = self.project_to_hidden(self.project_to_hidden_norm(seen))
        words = c["text"].to(self.context_embedder.weight.dtype)
        text = self.encoder_proj_layer_norm(self.context_embedder(words))
        rope = self.pos_embed(_positions(text.shape[1], sides, further, hidden.device))
        hidden = self._blocks(hidden, text, self.modulation(c, mask_ratio), rope)
        hidden = hidden[:, : hidden.shape[1] - further]
        hidden = self.project_from_hidden(self.project_from_hidden_norm(hidden))
        if self.up_block is not None:
            image = self.up_block["upsample"](hidden.transpose(1, 2).unflatten(2, sides))
            hidden = image[:, :, :height, :width].flatten(2).transpose(1, 2)
        out: Tensor = self.mlm_layer.layer_norm(F.linear(hidden, self.mlm_layer.conv1.weight[:, :, 0, 0]))
        return out

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """The last 1x1 convolution as a linear map, so that no [B, V, H, W] is ever made."""
        return F.linear(at_rows(hidden, rows), self.mlm_layer.conv2.weight[:, :, 0, 0])

    def adapter_targets(self) -> tuple[str, ...]:
        """Every linear map of the blocks."""
        blocks = ("transformer_blocks.", "single_transformer_blocks.")
        linear = [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        return tuple(dict.fromkeys(name.split(".", 2)[2] for name in linear if name.startswith(blocks)))

    def modulation(self, c: Mapping[str, Tensor], mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """What modulates every block: pooled text, micro-conditions and timestep."""
        micro = _embeddings.get_timestep_embedding(
            c["micro"].flatten(), 256, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        both = torch.cat([c["pooled"], micro.view(len(c["micro"]), -1).to(c["pooled"].dtype)], dim=-1)
        condition = self.cond_embed(both.to(self.cond_embed.linear_1.weight.dtype))
        time = self.clock.timestep(mask_ratio) * 1000
        modulation: Tensor = self.time_text_embed(time, condition)
        return modulation

    def to_json_string(self) -> str:
        """``config.json``, with the published class name."""
        config = {**json.loads(super().to_json_string()), "_class_name": CLASS_NAME}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _sides(self, length: int) -> tuple[int, int]:
        height, width = self.grid or (math.isqrt(length), math.isqrt(length))
        if height * width != length:
            raise ValueError(f"{length} tokens do not fill a grid of {height} x {width}; set grid")
        return height, width

    def _blocks(
        self, hidden: Tensor, text: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            if again:  # random is nothing in a block but the dropout of adapters, in training mode
                text, hidden = checkpoint(
                    block,
                    *(hidden, text, modulation, rope),
                    use_reentrant=False,
                    preserve_rng_state=self.training,
                )
            else:
                text, hidden = block(hidden, text, modulation, rope)
        return hidden


class HeadNorm(nn.RMSNorm):
    """The norm of queries and keys: in fp32, and the result in the wider dtype of input and gains.

    So the published code computes. Torch's own, as Flux has it now, is not fused where autocast gives it
    inputs in half precision beside gains in fp32.
    """

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """x / rms(x), times the gains."""
        normed = F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)
        return normed.to(torch.promote_types(x.dtype, self.weight.dtype))


def _block(block: nn.Module) -> nn.Module:
    """A block of Flux, its heads' norms replaced."""
    attention = block.get_submodule("attn")
    for name, norm in list(attention.named_children()):
        if isinstance(norm, nn.RMSNorm):
            setattr(attention, name, HeadNorm(norm.normalized_shape, eps=norm.eps))
    return block


def _norm(width: int) -> Any:
    return _uvit.RMSNorm(width, EPS, True)


def _resampler(name: str, width: int) -> nn.ModuleDict:
    """aMUSEd's 2 x 2 convolution (or its transpose) after a norm, under the key that it has there."""
    options: dict[str, Any] = {
        "kernel_size": 2,
        "padding": 0,
        "norm_type": "rms_norm",
        "eps": EPS,
        "elementwise_affine": True,
        "bias": False,
    }
    if name == "downsample":
        return nn.ModuleDict({name: _uvit.Downsample2D(width, use_conv=True, name="Conv2d_0", **options)})
    module = _uvit.Upsample2D(width, use_conv_transpose=True, interpolate=False, **options)
    return nn.ModuleDict({name: module})


def _positions(
    words: int, sides: tuple[int, int], further: int, device: torch.device
) -> Float[Tensor, "N 3"]:
    """Rotary positions: zeros for the text, (0, row, column) of each place of the grid, then zeros again."""
    height, width = sides
    places = slice(words, words + height * width)
    ids = torch.zeros(places.stop + further, 3, device=device)
    ids[places, 1] = torch.arange(height, device=device).repeat_interleave(width)
    ids[places, 2] = torch.arange(width, device=device).repeat(height)
    return ids
