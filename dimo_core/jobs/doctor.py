"""What this machine has and lacks for dimo.

Whatever may crash or spoil an interpreter (torch, torchvision built for another torch) is imported in a
process of its own.
"""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from typing import Any

from dimo_core.libraries import installed
from dimo_core.registry import OWN

_TIMEOUT = 300


_LIBRARIES = {
    "torch": (
        "every command that computes",
        "dimo run, sample and pretrain need torch: pip install 'torch>=2.11'",
    ),
    "torch_fidelity": (
        "metric 'fidelity' of dimo run: FID, inception score, KID, precision, recall",
        "dimo run finishes without FID and its like unless torch-fidelity loads: pip install torch-fidelity",
    ),
    "torchvision": (
        "imported by torch-fidelity only",
        "torchvision does not fit torch, and spoils other libraries that find it (transformers, diffusers): "
        "install the build for your torch, or uninstall it; dimo itself does without",
    ),
    "matplotlib": ("plots and report of dimo run", "dimo run draws with it: pip install matplotlib"),
}
"""Libraries whose import is tried: what for, and what to do when it fails. torchvision need not be there."""


def examine() -> dict[str, Any]:
    """All that ``dimo doctor`` shows, in a few seconds; it never raises for what it finds.

    The state of a library is ``ok``, ``not installed``, or the error of its import.
    """
    states = {name: _state(name) for name in _LIBRARIES}
    code = "from dimo_core.device import available_devices as found; import json; print(json.dumps(found()))"
    devices, complaint = _answer("-c", code)
    fine = {name for name, state in states.items() if state.startswith("ok")}
    fine |= {"torchvision"} if states["torchvision"] == "not installed" else set()
    advice = [advice for name, (_, advice) in _LIBRARIES.items() if name not in fine]
    if complaint and "torch" in fine:
        advice.append(f"torch shows no device: {complaint}")
    needs = _requirements()
    system = {"python": platform.python_version(), "system": platform.platform()}
    base = [OWN, *(name for name, extra in needs if not extra), "torchvision"]
    return dict(
        versions={**system, **{name: installed(name) for name in base}},
        extras={
            extra: [name for name, of in needs if of == extra and not installed(name)]
            for _, extra in needs
            if extra
        },
        devices=devices or [],
        libraries=[{"name": n, "state": states[n], "purpose": what} for n, (what, _) in _LIBRARIES.items()],
        advice=advice + _plugin_advice(),
    )


def _requirements() -> list[tuple[str, str]]:
    """Name and extra (empty for none) of everything that dimo depends on."""
    try:
        lines = requires(OWN) or []
    except PackageNotFoundError:
        return []
    found = re.findall(r"^([\w.-]+)(?:.*extra\s*==\s*['\"]([\w.-]+)['\"])?", "\n".join(lines), re.MULTILINE)
    return [(name, extra) for name, extra in found if name != OWN]


def _state(module: str) -> str:
    state = _python("-c", f"import {module}")[1] or "ok" if find_spec(module) else "not installed"
    if module == "torch_fidelity" and "torchvision" in state:
        return "ok without torchvision, which does not load"
    return state


def _plugin_advice() -> list[str]:
    """One line for each plugin that cannot be used."""
    found, failure = _answer("-m", "dimo_core", "plugins", "--check", "--json")
    if found is None:
        return [f"plugins could not be examined: {failure}"]
    lines = [row["error"] for row in found["plugins"] if row["state"] != "ok"]
    lines += [
        f"plugin {b['entry_point']!r} of {b['dist']} {b['version']}: {b['error']}" for b in found["broken"]
    ]
    return list(dict.fromkeys(lines))


def _answer(*arguments: str) -> tuple[Any, str]:
    """What another interpreter prints as JSON, and why it failed; None for what is no JSON."""
    text, failure = _python(*arguments)
    try:
        return json.loads(text), failure
    except ValueError:
        return None, failure or f"unreadable answer {text!r}"


def _python(*arguments: str) -> tuple[str, str]:
    """Output of another interpreter, and the last line of its errors where it failed."""
    how: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": _TIMEOUT}
    own = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # dimo does without
    try:
        done = subprocess.run([sys.executable, *arguments], env=own, **how)
    except (OSError, subprocess.SubprocessError) as error:
        return "", str(error) or repr(error)
    errors = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
    return done.stdout, errors[-1] if done.returncode else ""
