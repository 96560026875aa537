"""A resolved pretraining: what ``dimo pretrain`` hands over."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.objective import ObjectiveOptions
from dimo_core.settings import Train
from dimo_core.sources import Data
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class PretrainJob:
    """Everything ``dimo pretrain`` needs, validated, before any data is read.

    Attributes:
        config: The resolved configuration as plain data, which rebuilds this job.
        teacher_class: The teacher to create; its class, because nothing of it exists yet.
        model: An instance of the class's ``pretraining_options``: architecture and tokenizer.
        data: Training images with conditions.
        objective: What is trained.
        train: Length and precision.
        seed: Seed of weights, tokenizer and draws.
        out: Run folder, a path or fsspec URL.
        device: ``auto``, or a torch device.
        tokens: Folder or URL of the token cache, for data that are streamed; ``tokens`` in the run folder
            when null. A finished cache of the same data and tokenizer is used as it is.
    """

    config: Mapping[str, Any]
    teacher_class: type[Teacher]
    model: Any
    data: Data
    objective: ObjectiveOptions
    train: Train = attrs.field(factory=Train)
    seed: int = attrs.field(default=0, validator=v.ge(0))
    out: str
    device: str = "auto"
    tokens: str | None = None
