"""A new, small Meissonic in memory: architecture, fitted tokenizer and text tower, vocabulary."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dimo_core.choice import Choice
from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import digest_tensors
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_meissonic.architecture import Architecture
from dimo_meissonic.files import FORMAT, TEXT, TRANSFORMER, VQVAE, WEIGHTS, Part, Published
from dimo_meissonic.image_fit import fit_images, image_config
from dimo_meissonic.parts import Parts
from dimo_meissonic.pretraining import Pretraining
from dimo_meissonic.saving import in_fp32
from dimo_meissonic.text import load_tokenizer
from dimo_meissonic.text_fit import encode_words, fit_text, tower_config
from dimo_meissonic.vocabulary import learn_vocabulary

NEW = "a new teacher"
"""What it is called where others have a folder."""

MOST_WORDS = 77
"""Tokens of a prompt, at most; as in CLIP."""

TOKENIZER_LENGTH = "model_max_length"
"""The entry of ``tokenizer_config.json`` for the tokens of a prompt."""


@attrs.frozen(kw_only=True)
class NewPart(Part):
    """A part whose weights are in memory.

    Attributes:
        held: The weights.
    """

    held: Mapping[str, Tensor]

    @property
    def source(self) -> str:
        """For messages."""
        return NEW

    def tensors(self) -> dict[str, Tensor]:
        """The weights."""
        return dict(self.held)

    def digest(self) -> str:
        """The SHA-256 of the file that ``save`` would write."""
        return digest_tensors(in_fp32(self.held), {"format": "pt"})


@attrs.frozen(kw_only=True)
class NewTeacher(Published):
    """What takes the place of a teacher folder.

    Attributes:
        parts: Transformer, image tokenizer and text tower.
        files: The prompts' tokenizer.
    """

    parts: Mapping[str, NewPart]
    files: Mapping[str, bytes]

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a part."""
        return dict(self.parts[name].config)

    def part(self, name: str) -> Part:
        """One of the parts."""
        return self.parts[name]

    def vocabulary(self) -> dict[str, bytes]:
        """The tokenizer's files, by name."""
        return dict(self.files)


def new_parts(
    options: Pretraining, examples: Examples, *, evaluation: EvaluationPlan | None, seed: int
) -> Parts:
    """All parts of a new teacher: the transformer untrained, the others fitted to images and captions.

    Args:
        options: Sizes and fits.
        examples: Images with captions.
        evaluation: How samples will be judged.
        seed: Seed of weights and fits.

    Raises:
        UsageError: when the images have no captions, or do not divide into tokens.
    """
    if not examples.texts:
        raise UsageError(
            "the teacher 'meissonic' takes captions, and these images have none. Choose other data, such as"
            " --data scenes, or another --teacher."
        )
    files = learn_vocabulary(examples.texts, entries=options.vocabulary)
    words = json.loads(files["vocab.json"])
    tokenizer = load_tokenizer(files, NEW)
    length = min(MOST_WORDS, max(map(len, tokenizer(list(dict.fromkeys(examples.texts))).input_ids)))
    files["tokenizer_config.json"] = _with_length(files["tokenizer_config.json"], length)
    network = _architecture(options)
    tower = tower_config(options.text, vocabulary=words, length=length, width=network.width)
    images = fit_images(options.images, examples.pictures, seed=seed)
    ids = encode_words(tokenizer, examples.texts, length)
    text = fit_text(options.text, tower, ids, examples.pictures, seed=seed)
    card = {
        "format": FORMAT,
        "grid": [side // options.images.factor for side in examples.pictures.shape[2:]],
        "recipes": "small",
        "negative_prompt": "",
        "evaluation": _plan(evaluation, options.guidance),
    }
    parts = {
        TRANSFORMER: _part(TRANSFORMER, network.as_config(), _untrained(network, seed)),
        VQVAE: _part(VQVAE, image_config(options.images), images),
        TEXT: _part(TEXT, tower, text),
    }
    made = Parts(checkpoint=None, text_encoder=None)
    vars(made)["published"] = NewTeacher(folder=Folder(NEW), card=card, name=NEW, parts=parts, files=files)
    return made


def _architecture(options: Pretraining) -> Architecture:
    head, codes = sum(options.rope), options.images.codes
    sizes: dict[str, Any] = {
        "num_layers": options.layers,
        "num_single_layers": options.single_layers,
        "num_attention_heads": options.heads,
        "attention_head_dim": head,
        "axes_dims_rope": options.rope,
        "joint_attention_dim": options.text.width,
        "pooled_projection_dim": options.heads * head,
        "vocab_size": codes + 1,
        "codebook_size": codes,
        "downsample": options.downsample,
    }
    try:
        return Architecture(**sizes)
    except ValueError as error:
        names = ("layers", "single_layers", "heads", "rope", "text.width")
        raise UsageError(f"one of {', '.join(f'--model.{name}' for name in names)}: {error}") from error


def _untrained(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """The transformer's first weights."""
    from dimo_meissonic.transformer import MeissonicTransformer  # diffusers is loaded when it is needed

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "transformer"))
        network = MeissonicTransformer(**architecture.as_config())
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def _part(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> NewPart:
    return NewPart(folder=Folder(NEW), weights=WEIGHTS[name][0], config=config, held=tensors)


def _plan(evaluation: EvaluationPlan | None, guidance: float) -> dict[str, Any] | None:
    """The data's plan, with the guidance that this teacher is sampled with."""
    if evaluation is None:
        return None
    if guidance != 1:
        evaluation = attrs.evolve(evaluation, guidance=Choice("constant", {"scale": guidance}))
    return evaluation.as_dict()


def _with_length(config: bytes, length: int) -> bytes:
    return (json.dumps({**json.loads(config), TOKENIZER_LENGTH: length}, indent=0) + "\n").encode()
