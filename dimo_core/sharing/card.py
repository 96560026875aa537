"""``README.md`` of an export: the model card, for people and, in its head, for the Hugging Face Hub."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import attrs
import yaml

from dimo_core.sharing.facts import Known, Run
from dimo_core.sharing.impersonal import impersonal
from dimo_core.texts import passes_of, printable, steps_of

NAME = "README.md"

WHAT = {
    "load.py": "draws samples; needs no dimo",
    "export.json": "inputs, outputs, conditions, digests",
    "graph.json": "the graph: operations of ATen, as plain data",
    "generator.safetensors": "weights of the generator",
    "decoder.safetensors": "what else the graph needs, such as the decoder of its tokens",
    "generator.yaml": "what dimo needs to sample it",
    "program.pt2": "graph and weights, of torch.export",
    "model.onnx": "graph and weights, of ONNX",
    "model.onnx.data": "its weights",
    "conditions.safetensors": "condition tensors",
    "pieces.json": "the text of each token",
    "samples.png": "samples, drawn with seed 0",
    "LICENSE": "text of the licence",
}
"""What each file is for."""

RANDOM = {
    "uniform": "uniform on [0, 1)",
    "normal": "standard normal",
    "integers": "integers, uniform on 0 .. {}",
}
UNSAID: tuple[Any, ...] = (None, (), [], {})
"""Values of options that say nothing."""

METHOD = ("objective", "divergence", "guidance")
"""Sections of a configuration that say how the generator came about."""

TASKS = {("image", "text"): "text-to-image", ("image", "label"): "unconditional-image-generation"}
"""What the Hub calls a generator of such samples from such conditions."""


@attrs.frozen(kw_only=True, eq=False)
class Card:
    """What the page says.

    Attributes:
        facts: What ``export.json`` says.
        card: What ``generator.yaml`` says, without places of files.
        run: What the run says.
        known: The conditions in the folder.
        credits: Licence and author of what it is derived from, by part.
        licence: Of the weights, as SPDX has it; empty where nobody has said.
        parameters: Of the generator's network.
        picture: Name of a picture of samples; empty for none.
        samples: Lines of samples.
        own: Whether dimo reads the folder as a generator.
    """

    facts: Mapping[str, Any]
    card: Mapping[str, Any]
    run: Run
    known: Known
    credits: Mapping[str, str]
    licence: str = ""
    parameters: int
    picture: str = ""
    samples: Sequence[str] = ()
    own: bool = False

    def text(self) -> str:
        """The whole page."""
        from jinja2 import Environment

        environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        template = (files("dimo_core.sharing") / "card.md").read_text(encoding="utf-8")
        table = self.run.table
        names = [printable(name) for name in self.known.names[:2]]
        page = environment.from_string(template).render(
            front=self._front(),
            title=self._title,
            lead=self._lead(),
            picture=self.picture,
            samples=[printable(line) for line in self.samples],
            drawn=[printable(name) for name in self.known.names[: self.facts["batch"]]],
            kind=self.facts["kind"],
            examples=[shlex.quote(name) for name in names],
            quoted=[json.dumps(name, ensure_ascii=False) for name in names],
            shapes={each["name"]: each["shape"] for each in self.facts["outputs"]},
            pieces=self.facts["pieces"],
            own=self.own,
            batch=self.facts["batch"],
            facts={name: cell(value) for name, value in self._what().items()},
            table=table.markdown() if table else "",
            notes=table.notes if table else (),
            protocol=_yaml(impersonal(table.protocol)) if table else "",
            inputs=[*self._conditions(), *self._noise()],
            outputs=[*self._outputs()],
            complete=self.known.complete,
            condition_kind=self.known.kind,
            count=len(self.known.names),
            licence=self.licence,
            credits={cell(name): cell(value) for name, value in self._credits().items()},
            files=[*self._files()],
        )
        return re.sub(r"\n{3,}", "\n\n", page)

    @property
    def _title(self) -> str:
        return f"{self.card['teacher']['name']}, {steps_of(self.facts['steps'])}"

    def _lead(self) -> str:
        steps, teacher = steps_of(self.facts["steps"]), self.card["teacher"]["name"]
        cost = passes_of(self.facts["passes"])
        return (
            f"A generator of {steps} ({cost} a sample), distilled with dimo from the masked diffusion model "
            f"`{teacher}`."
        )

    def _front(self) -> str:
        """What the Hub reads."""
        task = TASKS.get((self.facts["modality"], self.known.kind))
        task = "text-generation" if self.facts["modality"] == "text" else task
        data = {
            **({"license": self.licence.lower()} if self.licence else {}),
            **({"pipeline_tag": task} if task else {}),
            "tags": ["dimo", "masked-diffusion", "distillation"],
        }
        return f"---\n{_yaml(data)}\n---"

    def _what(self) -> dict[str, str]:
        config, space = self.run.config, self.facts["space"]
        method = {
            key: _options(config[key]) for key in ("objective", "divergence", "guidance") if key in config
        }
        if "train" in config:
            method["training"] = (
                f"{self.card.get('step', '?')} steps of {config['train']['batch_size']} samples"
            )
        return {
            "teacher": _options(self.card["teacher"]),
            "generator": _options(self.card["generator"]),
            **method,
            "tokens": f"{space['length']} of {space['codes']} codes",
            "parameters": f"{self.parameters:,}",
            "made with": ", ".join(f"{name} {text}" for name, text in self.facts["versions"].items()),
        }

    def _conditions(self) -> list[dict[str, str]]:
        return [_row(each, "a condition") for each in self.facts["inputs"]["conditions"]]

    def _noise(self) -> list[dict[str, str]]:
        return [
            _row(
                {**each, "shape": [self.facts["batch"], *each["shape"]]},
                RANDOM[each["kind"]].format(each["high"] - 1),
            )
            for each in self.facts["inputs"]["noise"]
        ]

    def _outputs(self) -> list[dict[str, str]]:
        what = {"tokens": "codes of a sample", "images": "pixels in [0, 1]"}
        return [_row(each, what[each["name"]]) for each in self.facts["outputs"]]

    def _credits(self) -> dict[str, str]:
        unsaid = "not said: ask whoever made it"
        teacher = f"teacher `{self.card['teacher']['name']}`"
        credits = self.credits or {teacher: unsaid, "data of the teacher": unsaid}
        return {**credits, "load.py, and dimo": "Apache-2.0, the dimo authors"}

    def _files(self) -> list[dict[str, str]]:
        digests = self.facts["sha256"]
        return [{"name": n, "what": WHAT.get(n, ""), "digest": f"`{d}`"} for n, d in digests.items()]


def cell(text: str) -> str:
    """Text in a table of Markdown: on one line, its bars escaped."""
    return printable(text).replace("|", "\\|")


def _row(each: Mapping[str, Any], what: str) -> dict[str, str]:
    return {"name": each["name"], "dtype": each["dtype"], "shape": str(each["shape"]), "what": what}


def _options(section: Mapping[str, Any]) -> str:
    """A plugin with those of its options that say something."""
    options = {
        key: value for key, value in section.items() if key != "name" and value not in (None, (), [], {})
    }
    plain = ", ".join(f"{key} {value}" for key, value in options.items() if not isinstance(value, Mapping))
    return f"{section['name']} ({plain})" if plain else str(section["name"])


def _yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).strip()
