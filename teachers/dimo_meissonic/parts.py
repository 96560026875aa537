"""``Parts``: what a Meissonic teacher is made of, each part read when it is called for."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.weight_files import is_weights_file, split_key
from dimo_core.files.weights import sha256
from dimo_meissonic.architecture import Architecture
from dimo_meissonic.files import (
    TEXT,
    TOKENIZER,
    TRANSFORMER,
    VQVAE,
    WHAT_IS_NEEDED,
    Part,
    Published,
    find_part,
)
from dimo_meissonic.images import ImageTokenizer, pixel_factor
from dimo_meissonic.text import PromptEncoder, load_tokenizer, load_tower, padding_token, text_config


@attrs.frozen(kw_only=True, slots=False)
class Parts:
    """A teacher folder, and perhaps the text tower of another one.

    Attributes:
        checkpoint: The teacher folder.
        text_encoder: Folder of another text tower.
    """

    checkpoint: str | None
    text_encoder: str | None

    @cached_property
    def published(self) -> Published:
        """The teacher folder.

        Raises:
            CheckpointError: when there is none.
        """
        return Published.open(self.checkpoint)

    @cached_property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        config = self.published.config(TRANSFORMER)
        return Architecture.from_config(config, self.published.folder.path(TRANSFORMER, "config.json"))

    @property
    def factor(self) -> int:
        """Pixels a token, along a side."""
        return pixel_factor(self.published.config(VQVAE), self.published.folder.path(VQVAE))

    def transformer(self) -> Part:
        """The network."""
        return self.published.part(TRANSFORMER)

    def images(self, grid: tuple[int, int]) -> ImageTokenizer:
        """The image tokenizer.

        Raises:
            CheckpointError: when it does not fit the network.
        """
        part = self.published.part(VQVAE)
        tokenizer = ImageTokenizer(part.config, part.tensors(), grid, part.source)
        if tokenizer.codes != self.architecture.codebook_size:
            codes = self.architecture.codebook_size
            raise CheckpointError(f"{part.source} has {tokenizer.codes} codes, the transformer {codes}")
        return tokenizer

    def text(self) -> Part:
        """The text tower.

        Raises:
            CheckpointError: when there is none where it was said to be.
        """
        if self.text_encoder is None:
            return self.published.part(TEXT)
        for folder in (Folder(self.text_encoder), Folder(self.text_encoder).sub(TEXT)):
            if (part := find_part(folder, TEXT)) is not None:
                return part
        raise CheckpointError(
            f"no CLIP text tower in {self.text_encoder!r}: config.json and model.safetensors are needed. "
            "Leave --teacher.text_encoder out for the one that the network was trained with."
        )

    @cached_property
    def text_config(self) -> dict[str, Any]:
        """The text tower's configuration; its weights need not be there.

        Raises:
            CheckpointError: when it is no CLIP text tower, or does not fit the network.
        """
        if self.text_encoder is None:
            config, source = self.published.config(TEXT), self.published.folder.path(TEXT)
        else:
            part = self.text()
            config, source = dict(part.config), part.source
        own, a = text_config(config, source), self.architecture
        found, needed = (own.get("hidden_size"), own.get("projection_dim")), (a.joint_attention_dim, a.width)
        if found != needed:
            raise CheckpointError(
                f"the text tower of {source} gives {found} numbers for a word and for a prompt, the network "
                f"takes {needed}. Set --teacher.text_encoder to a CLIP of that size, or leave it out."
            )
        return own

    def prompts(self, device: torch.device, remember: int) -> PromptEncoder:
        """Text tower and tokenizer.

        Args:
            device: Where the tower computes.
            remember: How many prompts are remembered at most.
        """
        part = self.text()
        return PromptEncoder(
            load_tower(self.text_config, part.tensors(), part.source),
            load_tokenizer(self.published.vocabulary(), self.published.folder.path(TOKENIZER)),
            device=device,
            remember=remember,
        )

    def check(self) -> None:
        """Look whether every file is there.

        Raises:
            CheckpointError: when one is missing, or parts do not fit.
        """
        self.transformer()
        self.published.part(VQVAE)
        self.text()
        assert self.text_config, "it is checked when it is made"
        padding_token(self.published.vocabulary(), self.published.folder.path(TOKENIZER))

    def read_network(self, url: str) -> Mapping[str, Tensor] | None:
        """Weights of a network as diffusers saves it, in the folder itself or in ``transformer`` within.

        None for a file.

        Raises:
            CheckpointError: when there is none, or one of other sizes than the teacher's.
        """
        if is_weights_file(url) or Folder(split_key(url)[0]).is_file():
            return None
        for folder in (Folder(url), Folder(url).sub(TRANSFORMER)):
            if (part := find_part(folder, TRANSFORMER)) is not None:
                if Architecture.from_config(part.config, part.source) != self.architecture:
                    raise CheckpointError(f"the network in {folder.url!r} has other sizes than the teacher's")
                return part.tensors()
        if Folder(url).exists("generator", "config.json"):
            raise CheckpointError(f"name one of the networks in {url!r}: its folder generator, or ema_model")
        raise CheckpointError(
            f"no network in {url!r}: neither generator.yaml nor, in it or in its folder 'transformer', "
            f"config.json and diffusion_pytorch_model.safetensors.\n{WHAT_IS_NEEDED}"
        )

    def provenance(self) -> dict[str, str]:
        """The folder, and the SHA-256 of each file."""
        found = {"folder": self.published.name}
        if self.text_encoder is not None:
            found[TEXT] = self.text_encoder
        parts = {name: self.published.part(name) for name in (TRANSFORMER, VQVAE)} | {TEXT: self.text()}
        found |= {f"{name}/{part.weights}": part.digest() for name, part in parts.items()}
        vocabulary = self.published.vocabulary()
        return found | {f"{TOKENIZER}/{name}": sha256(data) for name, data in vocabulary.items()}
