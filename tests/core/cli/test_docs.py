"""The documentation of commands and plugins is complete."""

import re
from pathlib import Path

import pytest

from dimo_core.cli import COMMANDS
from dimo_core.cli.command import SHORT
from dimo_core.config.distil import DEFAULTS
from dimo_core.hookspecs import INTERFACES

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
