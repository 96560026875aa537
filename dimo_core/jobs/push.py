"""``dimo push``: an export goes to a repository of the Hugging Face Hub, in one commit."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
from loguru import logger

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.cache import file_sha256
from dimo_core.files.generator_folder import CARD
from dimo_core.files.hub import Repository
from dimo_core.files.urls import local_path
from dimo_core.jobs.export import export_generator
from dimo_core.sharing.card import NAME, WHAT
from dimo_core.sharing.folder import FACTS
from dimo_core.sharing.load import FORMAT

LICENCE = "LICENSE"
"""A file that goes along if it is there."""

TEXTS = (".md", ".json", ".yaml", ".py", LICENCE)
"""Endings of files that are looked through for places on somebody's machine."""


@attrs.frozen(kw_only=True)
class Pushed:
    """What is, or would be, pushed.

    Attributes:
        url: Where to.
        sizes: Bytes of each file, by name.
        deleted: Files of an earlier export that go; None where nobody has looked.
        commit: The commit's address; empty when nothing was pushed.
    """

    url: str
    sizes: Mapping[str, int]
    deleted: tuple[str, ...] | None = None
    commit: str = ""


def push(
    path: str,
    url: str,
    *,
    licence: str = "",
    create: bool = False,
    private: bool = False,
    message: str = "",
    dry_run: bool = False,
) -> Pushed:
    """Push an export, or a generator, which is exported as a folder first.

    Only files that the export lists go, with its model card and a ``LICENSE``: neither checkpoints nor
    anything else that lies beside them. All files go in one commit, or none.

    Args:
        path: The folder of an export, of a generator, or of a run that has one.
        url: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@BRANCH``.
        licence: Of the weights, for a generator that is exported now.
        create: Make the repository if it is not there.
        private: Whether only its owner sees a repository that is made.
        message: Of the commit.
        dry_run: Only say what would be pushed; nobody is asked.

    Raises:
        UsageError: for another URL, without a token or repository, and for files that name places on a
            machine.
        CheckpointError: when a file is missing or damaged.
        StorageError: when the Hub does not answer.
        MissingLibraryError: without huggingface_hub.
    """
    repository = Repository.of(url)
    if not dry_run:
        repository.check()
    with _exported(path, licence) as folder:
        files = files_of(folder)
        sizes = {name: place.stat().st_size for name, place in files.items()}
        if dry_run:
            return Pushed(url=repository.url, sizes=sizes)
        known = {*WHAT, NAME, FACTS}
        before = repository.names(create=create, private=private) or []
        deleted = tuple(name for name in before if name in known - {LICENCE} and name not in files)
        logger.info("pushing {} files to {}", len(files), repository.url)
        commit = repository.commit(files, deleted, message or "Export of dimo")
        return Pushed(url=repository.url, sizes=sizes, deleted=deleted, commit=commit)


def files_of(folder: Path) -> dict[str, Path]:
    """The files of an export, by name, each of them whole.

    Args:
        folder: Where they are.

    Raises:
        CheckpointError: when one is missing or damaged.
        UsageError: when a text names places on a machine.
    """
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        digests = dict(facts["sha256"])
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, not {FORMAT!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / FACTS} is no list of an export: {error}") from error
    if strange := [name for name in digests if name not in WHAT]:
        raise CheckpointError(f"{folder / FACTS} lists {strange[0]!r}, which is no file of an export")
    for name, digest in digests.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is missing, or not what was exported. Export it again.")
    more = [name for name in (NAME, LICENCE) if (folder / name).is_file()]
    files = {name: folder / name for name in (*digests, *more, FACTS)}
    for name, place in files.items():
        if name.endswith(TEXTS):
            _check_impersonal(name, place)
    return files


def _check_impersonal(name: str, place: Path) -> None:
    """Refuse a text that names the folder of a user."""
    own = [re.escape(str(home)) for home in [Path.home()] if len(home.parts) > 1]
    pattern = "|".join([*own, r"/(home|Users)/[\w.-]+", r"[A-Z]:\\+Users\\+[\w.-]+"])
    text = place.read_text(encoding="utf-8", errors="replace")
    if found := re.search(rf"(?<![\w.:/-])({pattern})(?![\w-])", text):
        line = text.count("\n", 0, found.start()) + 1
        raise UsageError(
            f"{name}, line {line}, names a place on somebody's machine ({found[0]}), and is not pushed. "
            f"Change that line in {str(place)!r}."
        )


@contextmanager
def _exported(path: str, licence: str) -> Iterator[Path]:
    """The folder of an export on this machine."""
    place = local_path(path)
    if place is not None and (place / FACTS).is_file():
        if licence:
            raise UsageError("--license is said when something is exported, and this is: edit README.md")
        yield place
        return
    if place is not None and not any((place / part / CARD).is_file() for part in ("", "generator")):
        raise UsageError(
            f"nothing to push in {path!r}: give the folder of `dimo export --format ...` ({FACTS}), of a "
            f"generator ({CARD}), or of a run that has finished."
        )
    with tempfile.TemporaryDirectory() as folder:
        export_generator(path, folder, "folder", licence=licence)
        yield Path(folder)
