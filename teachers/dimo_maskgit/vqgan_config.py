"""``VqganConfig``: the sizes of a VQGAN, as taming's ``model.yaml`` and diffusers' ``VQModel`` name them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import CheckpointError, message
from dimo_core.limits import check_network

GROUPS = 32
"""Groups of every group norm."""


def _whole(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


_POSITIVE = (v.instance_of(int), v.gt(0))
_POSITIVES = v.deep_iterable(v.and_(*_POSITIVE))

_BUILT = {
    "double_z": (True, False),
    "resamp_with_conv": (True, True),
    "attn_type": ("vanilla", "vanilla"),
    "use_linear_attn": (False, False),
    "tanh_out": (False, False),
    "give_pre_end": (False, False),
}
"""Entries of ``ddconfig`` that have one value here: what a file without the entry means, and that value."""

_UNUSED = {"dropout", "out_ch"}
"""Entries of ``ddconfig`` that decide no size: dropout is for training, ``out_ch`` is checked apart."""


@attrs.frozen(kw_only=True)
class VqganConfig:
    """The sizes of a VQGAN; the names are those of taming's ``model.yaml``.

    Attributes:
        ch: Channels of the first level.
        ch_mult: Channels of each level, from full resolution downwards, in units of ``ch``.
        num_res_blocks: Residual blocks per level of the encoder; the decoder has one more.
        attn_resolutions: Sides in pixels of the levels that have attention; the middle always has.
        resolution: Side of the image in pixels.
        in_channels: Channels of the image.
        z_channels: Channels between encoder or decoder and the 1x1 convolutions around the quantizer.
        embed_dim: Width of a codebook row.
        n_embed: Rows of the codebook.
    """

    ch: int = attrs.field(validator=_POSITIVE)
    ch_mult: tuple[int, ...] = attrs.field(converter=_whole, validator=[v.min_len(1), _POSITIVES])
    num_res_blocks: int = attrs.field(validator=_POSITIVE)
    attn_resolutions: tuple[int, ...] = attrs.field(converter=_whole, validator=_POSITIVES)
    resolution: int = attrs.field(validator=_POSITIVE)
    in_channels: int = attrs.field(validator=_POSITIVE)
    z_channels: int = attrs.field(validator=_POSITIVE)
    embed_dim: int = attrs.field(validator=_POSITIVE)
    n_embed: int = attrs.field(validator=_POSITIVE)

    def __attrs_post_init__(self) -> None:
        """Check what fields must be to each other."""
        if self.ch_mult[0] != 1:
            raise ValueError(
                f"ch_mult starts with {self.ch_mult[0]}; only 1 is built, since the first block of "
                "diffusers' encoder cannot change the width"
            )
        if self.resolution % 2 ** (len(self.ch_mult) - 1):
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {len(self.ch_mult) - 1} times, once between "
                f"each two of the levels ch_mult {list(self.ch_mult)}"
            )
        blocks = len(self.ch_mult) * self.num_res_blocks
        check_network(blocks, blocks * 18 * max(self.widths) ** 2 + self.n_embed * self.embed_dim)
        if odd := [width for width in self.widths if width % GROUPS]:
            raise ValueError(f"ch * ch_mult gives widths {odd} that are no multiples of {GROUPS}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side in pixels of each level."""
        return tuple(self.resolution >> level for level in range(len(self.ch_mult)))

    @classmethod
    def published(cls) -> "VqganConfig":
        """The VQGAN of the published teacher: ImageNet, 256 pixels, 16 x 16 tokens of 1024 codes."""
        return cls(
            ch=128,
            ch_mult=(1, 1, 2, 2, 4),
            num_res_blocks=2,
            attn_resolutions=(16,),
            resolution=256,
            in_channels=3,
            z_channels=256,
            embed_dim=256,
            n_embed=1024,
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], source: str) -> "VqganConfig":
        """Read what ``as_spec`` gives.

        Raises:
            CheckpointError: for missing, unknown or impossible entries.
        """
        try:
            return cls(**spec)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: wrong description of a VQGAN: {message(error)}") from error

    def as_spec(self) -> dict[str, Any]:
        """Plain data, for YAML."""
        return attrs.asdict(self) | {
            "ch_mult": list(self.ch_mult),
            "attn_resolutions": list(self.attn_resolutions),
        }

    @classmethod
    def from_model_yaml(cls, data: Any, source: str = "model.yaml") -> "VqganConfig":
        """Read taming's ``model.yaml``.

        Args:
            data: The parsed file.
            source: Its name, for messages.

        Raises:
            CheckpointError: when it describes no VQGAN, or one that is not built here.
        """
        try:
            model = dict(data["model"])
            params = dict(model["params"])
            ddconfig = dict(params["ddconfig"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source} describes no VQGAN: it has no model.params.ddconfig. "
                "Give the model.yaml that came with the checkpoint."
            ) from error
        if problems := [*_unsupported(model, params, ddconfig)]:
            raise CheckpointError(f"{source}: this VQGAN is not supported:\n  " + "\n  ".join(problems))
        sizes = {name: ddconfig[name] for name in ddconfig.keys() - _BUILT.keys() - _UNUSED}
        sizes |= {name: params[name] for name in ("embed_dim", "n_embed") if name in params}
        return cls.from_spec(sizes, source)

    def vq_model_options(self) -> dict[str, Any]:
        """The arguments of diffusers' ``VQModel``."""
        attention = [side in self.attn_resolutions for side in self.sides]
        down = {False: "DownEncoderBlock2D", True: "AttnDownEncoderBlock2D"}
        up = {False: "UpDecoderBlock2D", True: "AttnUpDecoderBlock2D"}
        return {
            "in_channels": self.in_channels,
            "out_channels": self.in_channels,
            "down_block_types": tuple(down[has] for has in attention),
            "up_block_types": tuple(up[has] for has in reversed(attention)),
            "block_out_channels": self.widths,
            "layers_per_block": self.num_res_blocks,
            "latent_channels": self.z_channels,
            "sample_size": self.resolution,
            "num_vq_embeddings": self.n_embed,
            "norm_num_groups": GROUPS,
            "vq_embed_dim": self.embed_dim,
        }


def _unsupported(
    model: Mapping[str, Any], params: Mapping[str, Any], ddconfig: Mapping[str, Any]
) -> Iterator[str]:
    target = str(model.get("target", "VQModel"))
    if target.rpartition(".")[2] != "VQModel":
        yield f"model.target is {target!r}, only taming's VQModel (nearest-row codebook) is built"
    if params.get("remap") is not None:
        yield f"model.params.remap is {params['remap']!r}, only null (codes as they are) is built"
    for name, (absent, built) in _BUILT.items():
        if (given := ddconfig.get(name, absent)) != built:
            where = "" if name in ddconfig else " (taming's default)"
            yield f"ddconfig.{name} is {given!r}{where}, only {built!r} is built"
    if ddconfig.get("out_ch") != ddconfig.get("in_channels"):
        yield (
            f"ddconfig.out_ch is {ddconfig.get('out_ch')!r}, it must equal "
            f"in_channels {ddconfig.get('in_channels')!r}"
        )
    known = {field.name for field in attrs.fields(VqganConfig)} | _BUILT.keys() | _UNUSED
    for name in sorted(ddconfig.keys() - known):
        yield f"ddconfig.{name} is unknown; delete the line if it does not change the network"
