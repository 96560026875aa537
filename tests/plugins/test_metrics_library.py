"""torch-fidelity is loaded with, without and despite torchvision."""

import subprocess
import sys
from pathlib import Path

import pytest

from dimo_core.errors import MissingLibraryError
from dimo_metrics.fidelity import Fidelity
from dimo_metrics.library import load_torch_fidelity

CHECK = """
import importlib.util, sys
sys.path.insert(0, {path!r})
from dimo_metrics.library import load_torch_fidelity
module = load_torch_fidelity()
assert callable(module.calculate_metrics)
left = [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
print(left or "clean", load_torch_fidelity() is module)
"""


def run(path: Path) -> subprocess.CompletedProcess[str]:
    code = CHECK.format(path=str(path))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def broken_torchvision(folder: Path, statement: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"from torchvision import extension\n{statement}\n")
    (package / "extension.py").write_text("")
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        *(
            pytest.param(statement, marks=pytest.mark.slow)
            for statement in (
                "raise OSError('libc10_cuda.so: cannot open shared object file')",
                "raise ImportError('no')",
                "raise type('Odd', (Exception,), {})('a kind of error that nobody foresaw')",
            )
        ),
        "import torchvision; torchvision.ops  # AttributeError: partially initialized module",
    ],
)
def test_a_broken_torchvision_does_not_take_the_metrics_away(tmp_path: Path, statement: str) -> None:
    result = run(broken_torchvision(tmp_path, statement))
    assert (0, "clean True") == (result.returncode, result.stdout.strip()), result.stderr


def test_a_torch_fidelity_that_does_not_load_is_a_clear_error(tmp_path: Path) -> None:
    package = tmp_path / "torch_fidelity"
    package.mkdir()
    (package / "__init__.py").write_text("import torch_fidelity.no_such_part\n")
    result = run(tmp_path)
    assert "MissingLibraryError: torch-fidelity does not load" in result.stderr
    assert "pip install" in result.stderr


def test_a_missing_torch_fidelity_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingLibraryError, match="pip install"):
        load_torch_fidelity()


def test_building_the_metric_needs_no_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert 3 == Fidelity().neighbours
