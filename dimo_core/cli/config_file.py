"""``dimo config``: checks a configuration file, and tells where each value comes from."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import yaml

from dimo_core.cli.command import SHORT, Parser, words
from dimo_core.config.draft import Draft
from dimo_core.config.layers import Layer, from_environment, from_file
from dimo_core.registry import Registry
from dimo_core.texts import shown

DRAFTS: Mapping[str, str] = {
    "run": "distil:DistilDraft",
    "pretrain": "pretrain:PretrainDraft",
    "sample": "sample:SampleDraft",
    "convert": "convert:ConvertDraft",
}
"""What makes the job of a command, in the package of configurations."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo config``."""
    parser = Parser(
        "dimo config",
        "Check a configuration file as a command would, without starting it, and print every value with "
        "where it comes from: the file, the environment, a preset, or a plugin's default.",
        "Options that follow override the file, as on the command's own line.",
    )
    parser.add_argument("file", metavar="FILE", help="YAML file, a path or URL")
    about = "whose configuration it is (default: run)"
    parser.add_argument("--for", dest="command", choices=DRAFTS, default="run", help=about)
    options, rest = parser.parse_known_args(list(argv))
    module, _, name = DRAFTS[options.command].partition(":")
    draft_of: type[Draft] = getattr(import_module(f"dimo_core.config.{module}"), name)
    layers = [from_environment(os.environ, draft_of.keys), from_file(options.file), words(rest, SHORT)]
    draft = draft_of(layers=layers, registry=Registry.discover(), short=SHORT)
    config = draft.job().config
    rows = [(key, _text(value), origin) for key, value, origin in values(draft, config)]
    wide, long = (max(len(row[i]) for row in rows) for i in (0, 1))
    for key, value, origin in rows:
        print(shown(f"{key:<{wide}}  {value:<{min(long, 32)}}  {origin}"))
    return 0


def values(draft: Draft, config: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and origin of everything in a configuration, in its order.

    Args:
        draft: What it was made by.
        config: It, as plain data.
    """
    for key in ("preset", "sampling"):
        if key in config:
            yield key, config[key], _chosen(draft, key)
    for key, section in draft.sections.items():
        if section.name:
            yield key, section.name, _chosen(draft, key)
        for option in section.options():
            value: Any = config
            for part in option.path:
                value = value[part]
            layer = draft.given[option.path][1] if option.path in draft.given else None
            default = f"default of {section.title}" if section.name else "default"
            if option.key not in ("preset", "sampling"):
                yield option.key, value, default if layer is None else _written(layer, option.path)


def _chosen(draft: Draft, key: str) -> str:
    """What names the plugin, preset or sampling of a key."""
    for layer in reversed(draft.layers):
        named = layer.name(key) if isinstance(layer.data.get(key), Mapping) else layer.data.get(key)
        if named is not None:
            path = (key, "name") if (key, "name") in layer.spelling else (key,)
            return _written(layer, path)
    return "default"


def _written(layer: Layer, path: tuple[str, ...]) -> str:
    return layer.spelling.get(path, layer.origin)


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
