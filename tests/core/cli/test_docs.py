"""The documentation of commands and plugins is complete, and its tutorial plugin works."""

import re
from pathlib import Path

import pytest
import torch

from dimo_core.cli import COMMANDS
from dimo_core.cli.command import SHORT
from dimo_core.config.distil import DEFAULTS
from dimo_core.hookspecs import INTERFACES
from dimo_core.registry import Registry

DOCS = Path(__file__).parents[3] / "docs"
CLI = (DOCS / "cli.md").read_text()
PLUGINS = (DOCS / "plugins.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command):
    assert f"`dimo {command}" in CLI


@pytest.mark.parametrize(("kind", "name"), DEFAULTS.items())
def test_every_default_plugin_is_documented(kind, name):
    assert re.search(rf"\| `--{kind}` .*`{name}` \|", CLI)


@pytest.mark.parametrize(("short", "path"), SHORT.items())
def test_every_short_form_is_documented(short, path):
    assert f"`--{short.replace('_', '-')}` is `--{'.'.join(path)}`" in CLI


@pytest.mark.parametrize(("kind", "interface"), INTERFACES.items())
def test_every_kind_is_documented_with_its_interface(kind, interface):
    assert f"| `{kind}` | `{interface.replace(':', '.')}` |" in PLUGINS


def test_every_environment_variable_is_documented():
    sources = (Path(__file__).parents[3] / "dimo_core").rglob("*.py")
    used = {
        name for path in sources for name in re.findall(r"environ\.get\(\"(DIMO_\w+)\"", path.read_text())
    }
    assert {"DIMO_DISABLE_PLUGINS", "DIMO_STRICT_PLUGINS"} <= used
    assert [] == [name for name in sorted(used) if name not in CLI]


def test_the_tutorial_plugin_works(tmp_path, monkeypatch):
    files = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PLUGINS, re.DOTALL)
    assert ["dimo_renyi/plugin.py", "dimo_renyi/divergence.py"] == [name for name, _ in files]
    for name, source in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    (entry_point,) = re.findall(r"\[project\.entry-points\.dimo\]\n(.*)\n", PLUGINS)
    metadata = tmp_path / "dimo_renyi-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dimo-renyi\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[dimo]\n{entry_point.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    renyi = Registry.discover({}).load("divergence", "renyi")(order=0.3)
    log_p, log_q = torch.randn(2, 3, 5, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(renyi.value(log_p, log_p), torch.zeros(3, dtype=torch.float64))
    assert bool((renyi.value(log_p, log_q) > 0).all())
    torch.testing.assert_close(renyi.grad(log_p, log_q).sum(-1), torch.zeros(3, dtype=torch.float64))
