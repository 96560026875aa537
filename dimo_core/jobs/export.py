"""``dimo export``: a trained generator in a form that others can use without what it was trained with."""

import re
from collections.abc import Sequence
from shlex import quote
from typing import Any

from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import generator_folder, load_generator, read_card, save_generator
from dimo_core.files.owner import owned
from dimo_core.files.weights import check_finite
from dimo_core.generator import Generator
from dimo_core.jobs.sample import conditions_of
from dimo_core.registry import Registry
from dimo_core.sharing.facts import Known, Run
from dimo_core.sharing.folder import KEPT, Export, Form
from dimo_core.sharing.onnx_file import check_libraries
from dimo_core.sharing.tracing import traced
from dimo_core.teacher import Teacher

LICENCE = re.compile(r"[A-Za-z0-9.+-]+")
"""Identifiers of SPDX, and the Hub's."""

TOGETHER, SITES = 16, 4096
"""The most samples, and tokens, that a graph is for unless told."""

EXAMPLES = 16
"""Conditions that an export brings along of those that nobody can list, such as prompts."""

LISTED = 10_000
"""The most classes whose condition tensors are written."""


def export_merged(path: str, out: str, *, registry: Registry | None = None) -> Folder:
    """Write a generator whose weights are partly its teacher's as one that holds all of them.

    The new one draws the same up to rounding, at the speed of a generator without adapters. It still names
    its teacher, which decodes what it draws.

    Args:
        path: A generator folder, or a run folder with one.
        out: Folder to write, a path or fsspec URL.
        registry: The plugins; discovered when None.

    Raises:
        UsageError: when its weights are whole already, the folder is not empty, or another process writes
            to it.
        CheckpointError: when ``path`` holds no whole generator, or its teacher is another one.
        NumericalError: when the weights hold NaN or infinity.
    """
    source = generator_folder(path)
    with owned(out) as folder:
        _check_empty(folder)
        teacher, generator = load_generator(source.url, registry=registry)
        name, whole = generator.merged(teacher)
        check_finite(source.url, whole.backbone.state_dict())
        card = read_card(source)
        config = _merged(card, name)
        save_generator(folder, whole, teacher, config, {k: config[k] for k in KEPT if k in config})
        logger.info("generator written: `dimo sample {}` draws from it", quote(folder.url))
        return folder


def export_generator(
    path: str,
    out: str,
    form: Form = "folder",
    *,
    batch_size: int | None = None,
    conditions: Sequence[str] | None = None,
    temperature: float | None = None,
    steps: int | None = None,
    licence: str = "",
) -> Folder:
    """Write what draws samples without dimo: a graph, weights, a loader and a model card.

    Weights that are partly the teacher's are merged. Graph and generator are compared before anything is
    written, and the files hold no path of this machine.

    Args:
        path: A generator folder, or a run folder with one.
        out: Folder to write, a path or fsspec URL; empty or missing.
        form: ``folder``, ``torch-export`` or ``onnx``.
        batch_size: Samples that the graph draws at a time; None for 16, or fewer of many tokens.
        conditions: Those whose tensors the folder brings along; None for all classes, or some examples.
        temperature: Divides the logits; None takes the generator's own.
        steps: Steps of a sample, all of which the graph has; None takes the generator's own.
        licence: Of the weights, as SPDX has it; empty where nobody has said.

    Raises:
        UsageError: when the generator cannot be traced, or an argument is impossible.
        CheckpointError: when ``path`` holds no whole generator.
        MissingLibraryError: when a library for the form is missing.
        NumericalError: when the graph computes something else than the generator.
    """
    _check_licence(licence)
    if form == "onnx":
        check_libraries()
    source = generator_folder(path)
    with owned(out) as folder:
        _check_empty(folder)
        teacher, generator = load_generator(source.url, temperature=temperature, steps=steps)
        card = read_card(source)
        generator, card = _whole(teacher, generator, card)
        check_finite(source.url, generator.backbone.state_dict())
        known, run = _known(teacher, card, conditions), Run.of(source)
        if temperature is not None or steps is not None:
            run = run.noted("Measured at the run's own temperature and steps, not at those of this export.")
        count = batch_size or max(1, min(TOGETHER, SITES // teacher.tokens.length))
        logger.info("tracing {} samples at a time", count)
        export = Export(
            teacher=teacher,
            generator=generator,
            traced=traced(teacher, generator, known.first(count)),
            known=known,
            config=card,
            run=run,
            licence=licence,
        )
        export.write(folder, form)
        return folder


def _check_licence(licence: str) -> None:
    if licence and not LICENCE.fullmatch(licence):
        raise UsageError(
            f"--license {licence!r} is no SPDX identifier, which has letters, digits, '.', '+' and '-', such "
            "as CC-BY-4.0. Of a licence of your own give 'other', and add its text to the folder as LICENSE."
        )


def _check_empty(folder: Folder) -> None:
    if folder.names():
        raise UsageError(f"{folder.url!r} is not empty, and nothing is overwritten. Choose another --out.")


def _merged(card: dict[str, Any], name: str) -> dict[str, Any]:
    """The card of a generator whose weights were merged."""
    merged_from = {"name": card["generator"]["name"], "sha256": card["sha256"]}
    return {**card, "generator": {"name": name}, "merged_from": merged_from}


def _whole(teacher: Teacher, generator: Generator, card: dict[str, Any]) -> tuple[Generator, dict[str, Any]]:
    """A generator that holds all of its weights, and its card."""
    try:
        name, whole = generator.merged(teacher)
    except UsageError:  # it does already
        return generator, {**card, "generator": {**card["generator"], **generator.sampling()}}
    whole = whole.eval().requires_grad_(False)
    return whole, {
        **(merged := _merged(card, name)),
        "generator": {**merged["generator"], **whole.sampling()},
    }


def _known(teacher: Teacher, card: dict[str, Any], given: Sequence[str] | None) -> Known:
    """The conditions of an export: those that are given, all classes, or examples."""
    classes = len(teacher.conditioning.classes)
    if given is None and 0 < classes <= LISTED:
        return Known.of(teacher, range(classes), complete=True)
    count = len(given) if given else EXAMPLES
    return Known.of(teacher, conditions_of(teacher, card, given, count), complete=False)
