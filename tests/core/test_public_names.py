"""``import dimo_core`` is light, and its public names are the same for readers, type checkers and Python."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dimo_core


def test_importing_the_core_imports_no_torch():
    code = "import dimo_core, sys; print(sorted({'torch', 'numpy', 'attrs', 'pluggy'} & set(sys.modules)))"
    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


def test_type_checkers_see_the_names_that_python_gives():
    stub = ast.parse(Path(dimo_core.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    # A name that is not written twice, `import A as A`, would be private to the stub.
    assert sorted(dimo_core.__all__) == sorted(node.names[0].asname for node in imports)


@pytest.mark.parametrize("name", dimo_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(import_module(dimo_core._HOMES[name]), name) is getattr(dimo_core, name)
    assert name in dir(dimo_core)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dimo_core.nonsense  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    assert dimo_core.__version__.count(".") >= 1
