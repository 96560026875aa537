"""What this machine has and lacks for dimo.

Whatever may crash or spoil an interpreter (torch, torchvision built for another torch) is imported in a
process of its own.
"""

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TypedDict

import attrs

from dimo_core.registry import OWN

_TIMEOUT = 300


class LibraryState(TypedDict):
    """How one library was found: its state is ``ok``, ``not installed``, or the error of its import."""

    name: str
    state: str
    purpose: str


class Examination(TypedDict):
    """All that ``dimo doctor`` shows."""

    versions: dict[str, str | None]
    extras: dict[str, list[str]]
    devices: list[str]
    libraries: list[LibraryState]
    advice: list[str]


@attrs.frozen
class _Library:
    """A library whose import is tried."""

    module: str
    purpose: str
    advice: str
    needed: bool = True


_LIBRARIES = (
    _Library(
        "torch",
        "every command that computes",
        "dimo run, sample and pretrain need torch: pip install 'torch>=2.11'",
    ),
    _Library(
        "torch_fidelity",
        "metric 'fidelity' of dimo run: FID, inception score, KID, precision, recall",
        "dimo run finishes without FID and its like unless torch-fidelity loads: pip install torch-fidelity",
    ),
    _Library(
        "torchvision",
        "imported by torch-fidelity only",
        "torchvision does not fit torch, and spoils other libraries that find it (transformers, diffusers): "
        "install the build for your torch, or uninstall it; dimo itself does without",
        needed=False,
    ),
    _Library("matplotlib", "plots and report of dimo run", "dimo run draws with it: pip install matplotlib"),
)


def examine() -> Examination:
    """Look at versions, devices, libraries and plugins; a few seconds. Never raises for what it finds."""
    libraries = [_try_import(library) for library in _LIBRARIES]
    devices, complaint = _devices()
    advice = [
        library.advice
        for library, found in zip(_LIBRARIES, libraries, strict=True)
        if not found["state"].startswith("ok") and (library.needed or found["state"] != "not installed")
    ]
    if complaint and libraries[0]["state"] == "ok":
        advice.append(f"torch shows no device: {complaint}")
    return Examination(
        versions=_versions(),
        extras=_extras(),
        devices=devices,
        libraries=libraries,
        advice=advice + _plugin_advice(),
    )


def _requirements() -> list[tuple[str, str]]:
    """Name and extra (empty for none) of everything that dimo depends on."""
    try:
        lines = requires(OWN) or []
    except PackageNotFoundError:
        return []
    found = []
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", line)
        if name and name[0] != OWN:
            found.append((name[0], extra[1] if extra else ""))
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    system = {"python": platform.python_version(), "system": platform.platform(), OWN: _installed(OWN)}
    base = [name for name, extra in _requirements() if not extra]
    return {**system, **{name: _installed(name) for name in [*base, "torchvision"]}}


def _extras() -> dict[str, list[str]]:
    """What is missing of each extra."""
    missing: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra:
            missing.setdefault(extra, []).extend([] if _installed(name) else [name])
    return missing


def _try_import(library: _Library) -> LibraryState:
    state = "not installed"
    if find_spec(library.module) is not None:
        code = f"import {library.module}"
        rc, _, error = _python("-c", code)
        state = "ok" if rc == 0 else (error.strip().splitlines() or [f"ended with code {rc}"])[-1]
    if library.module == "torch_fidelity" and "torchvision" in state:
        state = "ok without torchvision, which does not load"
    return LibraryState(name=library.module, state=state, purpose=library.purpose)


def _devices() -> tuple[list[str], str]:
    """Devices and, when there are none, why."""
    code = (
        "import json; from dimo_core.device import available_devices; print(json.dumps(available_devices()))"
    )
    rc, text, error = _python("-c", code)
    try:
        return (list(json.loads(text)), "") if rc == 0 else ([], (error.strip().splitlines() or [""])[-1])
    except ValueError:
        return [], f"unreadable answer {text!r}"


def _plugin_advice() -> list[str]:
    """One line for each plugin that cannot be used."""
    _, text, error = _python("-m", "dimo_core", "plugins", "--check", "--json")
    try:
        found = json.loads(text)
    except ValueError:
        return [f"plugins could not be examined: {(error.strip().splitlines() or ['no answer'])[-1]}"]
    lines = [row["error"] for row in found["plugins"] if row["state"] != "ok"]
    lines += [
        f"plugin {b['entry_point']!r} of {b['dist']} {b['version']}: {b['error']}" for b in found["broken"]
    ]
    return list(dict.fromkeys(lines))


def _python(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of another interpreter."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
