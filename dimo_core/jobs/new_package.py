"""``dimo plugins new``: a complete package with a plugin that works, to be changed into another one.

The packages are those of ``examples/``, with other names: what authors start from is what the documentation
shows and the tests run. A wheel holds them in ``dimo_core/packages``.
"""

import keyword
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import attrs

import dimo_core
from dimo_core.errors import UsageError
from dimo_core.files.folder import writing
from dimo_core.registry import Registry

EXAMPLES: Mapping[str, str] = {
    "teacher": "verse",
    "divergence": "renyi",
    "sampler": "raster",
    "metric": "repeats",
    "conditions": "topics",
    "objective": "imitate",
}
"""The kinds that there are packages of, and the names of these."""

LONGEST = 24
"""Letters of a name: with more, lines of code would become too long."""


@attrs.frozen
class Names:
    """What a plugin's name makes of others.

    Attributes:
        name: What users type.
    """

    name: str

    @property
    def package(self) -> str:
        """What is imported."""
        return f"dimo_{self.name.replace('-', '_')}"

    @property
    def distribution(self) -> str:
        """What is installed."""
        return f"dimo-{self.name.replace('_', '-')}"

    @property
    def cls(self) -> str:
        """The class."""
        return "".join(part.capitalize() for part in re.split("[-_]", self.name))

    def put(self, text: str, old: "Names", name: str = "") -> str:
        """A text with these names in place of the old ones.

        Args:
            text: In it the old names are no parts of other words.
            old: The old names.
            name: Stands for the bare name; itself when empty.
        """
        pairs = {
            old.package: self.package,
            old.distribution: self.distribution,
            old.cls: self.cls,
            old.name: name or self.name,
        }
        return re.sub("|".join(map(re.escape, pairs)), lambda found: pairs[found[0]], text)


def new_package(kind: str, name: str, out: str | None = None) -> Path:
    """Write a package with a plugin of a kind.

    Args:
        kind: One of ``EXAMPLES``.
        name: What users will type.
        out: The folder to make, on this machine; ``dimo-NAME`` when None.

    Returns:
        The folder.

    Raises:
        UsageError: for an unknown kind, a name that cannot be used, or a folder that exists.
        StorageError: when it cannot be written; nothing is left there.
    """
    if kind not in EXAMPLES:
        raise UsageError(f"there is no package of a {kind!r} to start from. Kinds: {', '.join(EXAMPLES)}")
    old, new = Names(EXAMPLES[kind]), Names(name)
    files = dict(_files(_example(kind)))
    _check(kind, new, old, files)
    if "://" in (out or ""):
        raise UsageError(f"--out is a folder on this machine, not {out!r}")
    target = Path(out or new.distribution).expanduser()
    if target.exists() or target.is_symlink():
        raise UsageError(f"{str(target)!r} exists already, and nothing was written. Choose another --out.")
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(str(target)):
        try:
            for path, text in files.items():
                place = part / new.put(path, old, new.name.replace("-", "_"))
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(new.put(text, old), encoding="utf-8")
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _check(kind: str, new: Names, old: Names, files: Mapping[str, str]) -> None:
    """Refuse a name with which the package would not work."""
    name = new.name
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > LONGEST:
        raise UsageError(
            f"bad name {name!r}: use up to {LONGEST} lower case letters and digits, a letter first, with "
            "single - or _ between them"
        )
    taken = [offer for offer in Registry.discover().offers(kind) if offer.name == name]
    if taken:
        raise UsageError(f"the {kind} {name!r} is there already, of {taken[0].origin}. Choose another name.")
    code = "\n".join(text for path, text in files.items() if path.endswith(".py"))
    used = new.name != old.name and re.search(rf"\b{new.cls}\b", code)
    if used or keyword.iskeyword(new.cls) or find_spec(new.package) is not None:
        what = f"the package {new.package!r}" if not used else f"the class {new.cls!r}"
        raise UsageError(f"bad name {name!r}: {what} would take the name of another. Choose another name.")


def _example(kind: str) -> Path:
    """The package of a kind: in a wheel, or in a checkout."""
    home = Path(dimo_core.__file__).parent
    inside = home / "packages" / kind
    return inside if inside.is_dir() else home.parent / "examples" / Names(EXAMPLES[kind]).distribution


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and text of each file of a package, without what its tools left there."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        tools = any(part.startswith(".") or part in LEFT or part.endswith(".egg-info") for part in parts)
        if path.is_file() and not tools:
            yield "/".join(parts), path.read_text(encoding="utf-8")


LEFT = ("__pycache__", "build", "dist")
"""Folders that tools leave."""
