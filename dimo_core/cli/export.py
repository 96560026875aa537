"""``dimo export``: a trained generator in another form."""

import argparse
from collections.abc import Sequence
from typing import get_args

from dimo_core.cli.command import Parser, option
from dimo_core.cli.drawing import generator, own_way, positive
from dimo_core.errors import UsageError
from dimo_core.texts import shown

FORMS = ("folder", "torch-export", "onnx")
OF_FORMS = ("batch_size", "conditions", "temperature", "steps", "license")
"""Options that go with ``--format``."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo export``."""
    options = _parser().parse_args(argv)
    if options.merge == bool(options.format):
        raise UsageError(
            "say in which form: either --format folder, torch-export or onnx, which draw samples without "
            "dimo, or --merge, which writes whole weights in place of adapters for dimo."
        )

    from dimo_core.config.folders import next_folder

    name = options.path.rstrip("/").removesuffix("/generator").rpartition("/")[2] or "generator"
    if options.merge:
        return _merge(options, next_folder("merged", name))

    from dimo_core.jobs.export import export_generator
    from dimo_core.sharing.folder import Form

    assert get_args(Form) == FORMS
    folder = export_generator(
        options.path,
        options.out or next_folder(options.format, name),
        options.format,
        batch_size=options.batch_size,
        conditions=options.conditions,
        temperature=options.temperature,
        steps=options.steps,
        licence=options.license or "",
    )
    print(f"{options.format} in {shown(folder.url)}: its load.py draws samples without dimo")
    return 0


def _merge(options: argparse.Namespace, proposed: str) -> int:
    from dimo_core.jobs.export import export_merged

    for name in OF_FORMS:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --format, and not with --merge")
    folder = export_merged(options.path, options.out or proposed)
    print(f"generator of whole weights in {shown(folder.url)}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dimo export",
        "Write a trained generator in another form. --format writes its whole pass, from random numbers to "
        "pixels, with a model card and a loader that needs no dimo. --merge adds what adapters learnt to the "
        "teacher's weights and writes a generator folder of `one_step` that holds all of them.",
    )
    generator(parser, "GENERATOR")
    forms = (
        "folder: graph as data and weights as safetensors, for torch, which dimo reads too; torch-export: a "
        "program.pt2; onnx: a model.onnx"
    )
    parser.add_argument("--format", choices=FORMS, help=forms)
    option(parser, "--merge", "", "write whole weights in place of adapters")
    out = "folder to write: empty or missing (default: the next runs/FORM-...)"
    option(parser, "--out", "FOLDER", out)
    size = "samples that the graph draws at a time (default: 16, fewer of many tokens; 64 at most)"
    option(parser, "--batch-size", "B", size, type=positive)
    raw = "conditions whose tensors are written along (default: all classes, or 16 prompts)"
    option(parser, "--conditions --prompt", "C ...", raw, action="extend")
    own_way(parser)
    licence = "licence of the weights, as SPDX has it, such as CC-BY-4.0 (default: none is said)"
    option(parser, "--license --licence", "ID", licence)
    return parser
