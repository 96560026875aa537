"""From names and options to the job of a pretraining; see ``dimo_core.config.distil`` for distillation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from dimo_core.config.distil import DEFAULTS, Common
from dimo_core.config.draft import Draft, Section
from dimo_core.config.folders import next_folder
from dimo_core.errors import ConfigError
from dimo_core.settings import Train

if TYPE_CHECKING:
    from dimo_core.objective import ObjectiveOptions
    from dimo_core.sources import Data
    from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class PretrainJob(Common):
    """Everything ``dimo pretrain`` needs, validated, before any data is read.

    Attributes:
        config: The resolved configuration as plain data, which rebuilds this job.
        teacher_class: The teacher to create; its class, because nothing of it exists yet.
        model: An instance of the class's ``pretraining_options``: architecture and tokenizer.
        data: Training images with conditions.
        objective: What is trained.
        train: Length and precision.
        out: Run folder, a path or fsspec URL.
    """

    config: Mapping[str, Any]
    teacher_class: "type[Teacher]"
    model: Any
    data: "Data"
    objective: "ObjectiveOptions"
    train: Train = attrs.field(factory=Train)
    out: str


class PretrainDraft(Draft):
    """How ``dimo pretrain`` makes its job; ``model`` holds the teacher class's ``pretraining_options``."""

    keys = ("teacher", "model", "data", "objective", "train", *(field.name for field in attrs.fields(Common)))
    defaults = MappingProxyType(
        {"teacher": DEFAULTS["teacher"], "data": "digits", "objective": "masked-modelling"}
    )
    groups = MappingProxyType({"train": Train, "": Common})

    def outline(self) -> list[Section | None]:
        """The name of the teacher, its model, data and objective."""
        chosen = self.choose("teacher")
        first: list[Section | None] = []
        if chosen is not None:
            first.append(Section(key="teacher", name=chosen.name, cls=None))
            options = getattr(chosen.cls, "pretraining_options", None)
            if options is None:
                self.problems.append(
                    ConfigError(f"{chosen.title} cannot be pretrained. Choose another --teacher.")
                )
            else:
                first.append(Section(key="model", cls=options))
        return [*first, self.choose("data"), self.choose("objective")]

    def job(self) -> PretrainJob:
        """The job, its run folder named."""
        made = self.make()
        del made["teacher"]
        name, data = (self.sections[key].name for key in ("teacher", "data"))
        made["teacher_class"] = self.registry.load("teacher", name)
        made["out"] = made["out"] or next_folder("pretrain", name, data)
        return PretrainJob(**made)
