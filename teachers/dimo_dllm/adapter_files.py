"""Adapters in peft's layout, under the module names of transformers or of the published code."""

import json
import re
from typing import Any

from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import WEIGHTS as OWN
from dimo_core.files.generator_folder import generator_folder, of_card, read_card, strangers
from dimo_core.files.owner import owned
from dimo_core.files.weights import check_finite, read_tensors, write_tensors
from dimo_core.registry import Registry
from dimo_dllm.adapter_card import CONFIG, README, WEIGHTS, Names, card
from dimo_dllm.architecture import Architecture
from dimo_dllm.teacher import DllmTeacher


def write_adapter(path: str, out: str, names: Names = "transformers") -> Folder:
    """Write the adapters of a generator as peft does.

    Args:
        path: A generator folder, or a run folder with one.
        out: Folder to write.
        names: Whose module names they get.

    Raises:
        UsageError: when the generator has no adapters on such a teacher, or the folder is not empty.
        CheckpointError: when there is no whole generator, or its teacher is another one or gone.
        NumericalError: when the weights hold NaN or infinity.
    """
    source = generator_folder(path)
    facts = read_card(source)
    teacher = of_card(Registry.discover(), "teacher", facts["teacher"], source)
    if not isinstance(teacher, DllmTeacher) or facts["generator"].get("name") != "lora":
        raise UsageError(
            f"{source.url!r} holds the generator {facts['generator'].get('name')!r} of the teacher "
            f"{facts['teacher'].get('name')!r}. Only adapters (--generator lora) of llada and dream are "
            "written for peft."
        )
    if wrong := strangers(facts, teacher.provenance()):
        raise UsageError(
            f"the teacher that {source.url!r} names is another one by now: the SHA-256 of {', '.join(wrong)} "
            "is another."
        )
    if teacher.adapter is not None:
        raise UsageError(
            f"{source.url!r} was trained on top of the adapter {teacher.adapter!r}, and peft would add it to "
            "the base alone. Train on the base, with --teacher.adapter null."
        )
    tensors = read_tensors(source, OWN, facts["sha256"][OWN])
    check_finite(source.url, tensors)
    a, base = teacher.architecture, str(teacher.path).removeprefix("hf://")
    translated = {peft_name(a, name, names): tensor.contiguous() for name, tensor in tensors.items()}
    with owned(out) as folder:
        if folder.names():
            raise UsageError(
                f"{folder.url!r} is not empty, and nothing is overwritten. Choose another --out."
            )
        config = adapter_config(a, facts["generator"], translated, base, names)
        write_tensors(folder, WEIGHTS, translated, {"format": "pt"})
        folder.write(README, card(a.family, base, facts, names).encode())
        folder.write(CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())
        return folder


def peft_name(a: Architecture, name: str, names: Names) -> str:
    """The name that peft gives a tensor of an adapter in a file.

    Args:
        a: Whose network it changes.
        name: Its name in the state of a generator.
        names: Whose module names are used.
    """
    module, kind = re.fullmatch(r"(.*)\.(lora_[AB])\.default\.weight", name).groups()  # type: ignore[union-attr]
    if names == "published":
        module = a.published_name(f"{module}.weight").removesuffix(".weight")
    return f"base_model.model.{module}.{kind}.weight"


def adapter_config(
    a: Architecture, options: dict[str, Any], tensors: dict[str, Tensor], base: str, names: Names
) -> dict[str, Any]:
    """What peft reads beside the tensors.

    Args:
        a: Whose network they change.
        options: Those of the generator.
        tensors: The adapters, by their names in the file.
        base: Where the network was published.
        names: Whose module names are used.
    """
    chosen = sorted({name.split(".")[-3] for name in tensors})
    targets: Any = chosen
    if names == "published" and a.family == "llada":  # the head is called like a block's last projection
        targets = rf".*blocks\.\d+\.({'|'.join(chosen)})"
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": options["rank"],
        "lora_alpha": options["alpha"],
        "lora_dropout": options.get("dropout", 0.0),
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
