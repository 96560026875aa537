"""A published CLIP with its tokenizer and its preprocessing of images: ``Clip``."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, MissingLibraryError
from dimo_core.files.cache import local_copy
from dimo_core.files.foreign import read_foreign
from dimo_core.files.weights import assign
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_metrics.clip_files import CONFIG, PICTURES, TOKENIZER, clip_files, weights_of

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the channels, as OpenAI published them with CLIP; a preprocessor_config.json overrules them."""


@attrs.frozen(kw_only=True)
class Preprocessing:
    """What CLIP sees of an image: scaled, middle square, channels normalised.

    Attributes:
        size: Length of the shorter side.
        square: Whether the longer side gets this length too, whatever the shape of the image.
        crop: Height and width of the square.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        resample: Pillow's number of the filter; 3 is bicubic.
    """

    size: int
    crop: int
    square: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3

    @classmethod
    def read(cls, config: Mapping[str, Any], size: int, source: str = PICTURES) -> "Preprocessing":
        """From a ``preprocessor_config.json``; what it does not say is as OpenAI published it.

        Args:
            config: Its content; may be empty.
            size: Of the images that the network takes.
            source: Where it was read, for messages.

        Raises:
            CheckpointError: for what no CLIP's preprocessing says.
        """
        scaled, crop = config.get("size", size), config.get("crop_size", size)
        square = isinstance(scaled, Mapping) and scaled.get("shortest_edge") is None
        try:
            return cls(
                size=_side(scaled, ("height", "width") if square else ("shortest_edge",)),
                crop=_side(crop, ("height", "width")),
                square=square,
                mean=tuple(map(float, config.get("image_mean", MEAN))),
                std=tuple(map(float, config.get("image_std", STD))),
                resample=Image.Resampling(config.get("resample", 3)),
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source} describes no preprocessing that CLIP has: {error}") from error

    def __call__(self, images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N 3 S S"]:
        """Images with 1 or 3 channels, through Pillow, as CLIP's own preprocessing does it."""
        pixels = torch.stack([self._cropped(image) for image in images.cpu().expand(-1, 3, -1, -1)])
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def _cropped(self, image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        height, width = image.shape[1:]
        shorter = min(height, width)
        longer = (self.size * width // shorter, self.size * height // shorter)
        scaled = (self.size, self.size) if self.square else longer
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        picture = picture.resize(scaled, Image.Resampling(self.resample))
        left, top = ((length - self.crop) // 2 for length in scaled)
        picture = picture.crop((left, top, left + self.crop, top + self.crop))
        square = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return square.view(self.crop, self.crop, 3).permute(2, 0, 1)


@attrs.frozen(kw_only=True, eq=False)
class Clip:
    """A CLIP that says how well images fit texts.

    Attributes:
        network: transformers' ``CLIPModel``, frozen.
        tokenizer: Its tokenizer.
        preprocessing: What it sees of an image.
        length: Words of a text at most; longer ones are cut.
        device: Where it computes.
    """

    network: nn.Module
    tokenizer: Any
    preprocessing: Preprocessing
    length: int
    device: torch.device

    @classmethod
    def load(cls, model: str, device: torch.device) -> "Clip":
        """Read a published CLIP; no code of its folder is executed.

        Args:
            model: As ``clip_files`` takes it.
            device: Where it computes.

        Raises:
            CheckpointError: when files are missing, or do not fit one another.
            MissingLibraryError: if transformers is not installed, or does not load.
        """
        files = clip_files(model)
        config = _json(files[CONFIG])
        if "vision_config" not in config and "vision_config_dict" not in config:
            raise CheckpointError(f"{files[CONFIG]} describes no CLIP of texts and images: no vision_config")
        network = _network(config, weights_of(files))
        vision, text = network.config.vision_config, network.config.text_config
        pictures = _json(files[PICTURES]) if PICTURES in files else {}
        return cls(
            network=network.to(device),
            tokenizer=_tokenizer(model, files),
            preprocessing=Preprocessing.read(pictures, vision.image_size, str(files.get(PICTURES))),
            length=text.max_position_embeddings,
            device=device,
        )

    def cosines(self, images: UInt8[Tensor, "N C H W"], texts: Sequence[str]) -> Float[Tensor, " N"]:
        """The cosine between the embedding of each image and that of its text, in [-1, 1]."""
        words = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        )
        with torch.no_grad():
            found = self.network(
                input_ids=words["input_ids"].to(self.device),
                attention_mask=words["attention_mask"].to(self.device),
                pixel_values=self.preprocessing(images).to(self.device),
            )
        image, text = (
            nn.functional.normalize(e.float(), dim=1) for e in (found.image_embeds, found.text_embeds)
        )
        return (image * text).sum(1).cpu()


def _side(value: Any, names: Sequence[str]) -> int:
    """A length in pixels: a plain number, as in old files, or the one length that has these names."""
    lengths = value if isinstance(value, Mapping) else dict.fromkeys(names, value)
    found = {name: length for name, length in lengths.items() if length is not None}
    if found.keys() != set(names) or len(set(found.values())) > 1:
        raise ValueError(
            f"got a size of {value}; known are a number of pixels, the same 'height' and 'width', and, where "
            "images are scaled, 'shortest_edge'"
        )
    return int(found[names[0]])


def _json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(local_copy(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return content


def _library(name: str) -> ModuleType:
    try:
        return import_beside_torchvision(name)
    except FAILURES as error:
        raise MissingLibraryError(
            "metric 'clip-score' is computed by transformers, which does not load "
            f'({type(error).__name__}: {error}). Install it: pip install --upgrade "dimo[clip]"'
        ) from error


def _network(config: Mapping[str, Any], weights: str) -> Any:
    configuration = _library("transformers.models.clip.configuration_clip").CLIPConfig
    cls = _library("transformers.models.clip.modeling_clip").CLIPModel
    try:
        with torch.device("meta"):
            network = cls(configuration.from_dict(dict(config))).float()
    except Exception as error:  # the library's own kinds of errors differ by its version
        raise CheckpointError(f"the config.json beside {weights} is of no possible CLIP: {error}") from error
    network.to_empty(device="cpu")
    # The positions 0, 1, 2 ... are buffers, which old files hold and new ones do not.
    for name, buffer in network.named_buffers():
        assert name.endswith("position_ids"), f"unknown buffer {name}"
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    kept = {name for name, _ in network.named_buffers() if name in network.state_dict()}
    tensors = read_foreign(weights).state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    tensors |= {name: network.get_buffer(name) for name in kept}
    assign(network, tensors, weights)
    return network.eval().requires_grad_(False)


def _tokenizer(model: str, files: Mapping[str, str]) -> Any:
    cls = _library("transformers.models.clip.tokenization_clip").CLIPTokenizer
    with tempfile.TemporaryDirectory() as folder:
        for name in set(TOKENIZER) & set(files):
            (Path(folder) / name).write_bytes(local_copy(files[name]).read_bytes())
        try:
            return cls.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the library's own kinds of errors differ by its version
            raise CheckpointError(f"{model} holds no CLIP tokenizer: {error}") from error
