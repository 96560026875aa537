"""The folder of an export, in each of its forms; ``export.json`` comes last and makes it whole."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, WEIGHTS, read_card, save_generator, versions
from dimo_core.files.weights import write_tensors
from dimo_core.generator import Generator
from dimo_core.report.sheets import sheet
from dimo_core.sharing import card
from dimo_core.sharing.copying import digest, put
from dimo_core.sharing.facts import Known, Run, pieces_of
from dimo_core.sharing.graph import graph_of
from dimo_core.sharing.impersonal import impersonal
from dimo_core.sharing.load import FORMAT
from dimo_core.sharing.onnx_file import write_onnx
from dimo_core.sharing.tracing import Traced, sizes
from dimo_core.teacher import Teacher

Form = Literal["folder", "torch-export", "onnx"]

FACTS, LOADER, CONDITIONS, PIECES = "export.json", "load.py", "conditions.safetensors", "pieces.json"
GRAPH, PROGRAM, DECODER, PICTURE = "graph.json", "program.pt2", "decoder.safetensors", "samples.png"

KEPT = ("step", "seed", "merged_from")
"""Facts of a card that stay."""


@attrs.frozen(kw_only=True, eq=False)
class Export:
    """What is written.

    Attributes:
        teacher: Decodes the tokens.
        generator: Whose weights are whole.
        traced: Its graph.
        known: Conditions that the folder brings along.
        config: The card of the generator folder, of the generator that is written.
        run: What is known of its run.
        licence: Of the weights; empty where nobody has said.
    """

    teacher: Teacher
    generator: Generator
    traced: Traced
    known: Known
    config: Mapping[str, Any]
    run: Run
    licence: str = ""

    def write(self, folder: Folder, form: Form) -> None:
        """Write all files.

        Args:
            folder: An empty one.
            form: ``folder`` (graph as data, weights as safetensors), ``torch-export`` or ``onnx``.

        Raises:
            UsageError: when the graph has no such form.
            NumericalError: when what was written computes something else.
            MissingLibraryError: when a library for it is missing.
        """
        compared, more = self._program(folder, form)
        write_tensors(folder, CONDITIONS, self.known.tensors)
        pieces = pieces_of(self.teacher, self.traced.outputs["tokens"], self.known.first(self.traced.batch))
        if pieces is not None:
            folder.write(PIECES, json.dumps(pieces, ensure_ascii=False).encode())
        folder.write(LOADER, (files("dimo_core.sharing") / LOADER).read_bytes())
        picture, samples = self._samples(folder)
        digests = {name: digest(folder, name) for name in folder.names()}
        facts = {**self._facts(form, digests), "pieces": pieces is not None, "compared": compared, **more}
        page = card.Card(
            facts=facts,
            card=impersonal(self.config),
            run=self.run,
            known=self.known,
            credits=self.teacher.credits(),
            licence=self.licence,
            parameters=sum(p.numel() for p in self.generator.backbone.parameters()),
            picture=picture,
            samples=samples,
            own=form == "folder",
        )
        folder.write(card.NAME, page.text().encode())
        folder.write_json(FACTS, facts)

    def _program(self, folder: Folder, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the graph; how it was compared, and what else ``load.py`` must know."""
        own = {"torch": str(torch.__version__)}
        if form == "onnx":
            return {**own, **write_onnx(folder, self.traced)}, {}
        if form == "torch-export":
            with tempfile.TemporaryDirectory() as place:
                torch.export.save(self.traced.program, path := Path(place) / PROGRAM)
                put(folder, path)
            return own, {}
        return own, {"weights": self._graph(folder)}

    def _graph(self, folder: Folder) -> list[str]:
        """The folder that dimo reads, the graph, and its tensors; names of their files."""
        graph = graph_of(self.traced.program)
        config = {**self.config, "teacher": impersonal(self.config["teacher"])}
        if impersonal(config.get("conditions")) != config.get("conditions"):
            config.pop("conditions")  # files that are not in the folder; the teacher suggests a source
        kept: dict[str, Any] = {key: config[key] for key in KEPT if key in config}
        save_generator(folder, self.generator, self.teacher, config, kept)
        folder.write_yaml(CARD, impersonal(read_card(folder)))
        own = {_place(tensor): key for key, tensor in self.generator.backbone.state_dict().items()}
        places: dict[str, tuple[str, str]] = {}
        rest: dict[str, Tensor] = {}
        for name, tensor in graph.tensors.items():
            if (key := own.get(_place(tensor))) is not None:
                places[name] = (WEIGHTS, key)
            else:
                places[name], rest[name] = (DECODER, name), tensor.contiguous()
        if rest:
            write_tensors(folder, DECODER, rest)
        held = {node: places[name] for node, name in graph.held.items()}
        folder.write(GRAPH, (json.dumps({**graph.data, "tensors": held}) + "\n").encode())
        return [WEIGHTS, *([DECODER] if rest else [])]

    def _samples(self, folder: Folder) -> tuple[str, Sequence[str]]:
        """A picture of the samples that the graph was checked with, or their lines."""
        x = self.traced.outputs["tokens"]
        c = self.known.first(len(x))
        with torch.no_grad():
            shown = self.teacher.preview(x, c)
        names = [self.known.names[i % len(self.known.names)] for i in range(len(x))]
        if shown.images is None:
            return "", [f"{name}: {line}" for name, line in zip(names, shown.lines or (), strict=False)][:4]
        folder.write(PICTURE, sheet(shown, names).data)
        return PICTURE, ()

    def _facts(self, form: Form, digests: Mapping[str, str]) -> dict[str, Any]:
        space = self.teacher.tokens
        tensors = {**self.traced.conditions, **self.traced.noise}
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
        return {
            "format": FORMAT,
            "kind": form,
            "batch": self.traced.batch,
            "modality": space.modality,
            "space": {"length": space.length, "codes": space.codes, "mask_id": space.mask_id},
            "steps": self.generator.steps,
            "passes": self.generator.passes,
            "sampling": dict(self.generator.sampling()),
            "inputs": {
                "conditions": [
                    {"name": name, "dtype": dtypes[name], "shape": list(tensor.shape)}
                    for name, tensor in self.traced.conditions.items()
                ],
                "noise": [{"dtype": dtypes[each["name"]], **each} for each in sizes(self.traced.streams)],
            },
            "outputs": [
                {"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}
                for name, x in self.traced.outputs.items()
            ],
            "condition_kind": self.known.kind,
            "conditions": list(self.known.names),
            "all_conditions": self.known.complete,
            "license": self.licence or None,
            "versions": versions(),
            "sha256": dict(digests),
        }


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What tells a tensor in memory from every other."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
