"""Sphinx: reference pages that are made from the code when the site is built: they cannot be behind it.

A page says where by a fenced block, which is replaced before the page is read::

    ```{generated} plugins
    ```

``commands`` are the help texts of every command, ``plugins`` every shipped plugin with its options, ``hooks``
the hook and what each kind of plugin implements.
"""

import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import attrs
import docstring_parser
import yaml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from dimo_core import hookspecs
from dimo_core.cli import COMMANDS, main
from dimo_core.errors import PluginError
from dimo_core.options import field_docs, first_line, options_of, plain, type_name
from dimo_core.registry import OWN, Offer, Registry
from dimo_core.settings import Evaluate, Train
from dimo_core.teacher import Teacher

WIDTH = 108
FENCE = re.compile(r"^```\{generated\} *(\S+)\n```$", re.MULTILINE)
PLURALS = {
    "auxiliary": "auxiliaries",
    "guidance": "guidance",
    "data": "data",
    "conditions": "conditions",
    "features": "features",
}


def offers(kind: str | None = None) -> list[Offer]:
    """What dimo itself ships: the site is the same whatever else is installed."""
    return [offer for offer in Registry.discover({}).offers(kind) if offer.dist == OWN]


def interface(kind: str) -> type:
    """The class that a kind of plugin derives from."""
    module, _, name = hookspecs.INTERFACES[kind].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def commands() -> Iterator[str]:
    """The help text of each command, as a terminal of WIDTH columns shows it."""
    for name in [*COMMANDS, *(offer.name for offer in offers("command"))]:
        yield f"## `dimo {name}`\n\n```text\n{help_of(name)}\n```\n"


def help_of(name: str) -> str:
    """What ``dimo NAME --help`` prints."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(printed):
            code = main([name, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    if code:
        raise ExtensionError(f"`dimo {name} --help` ended with {code}")
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())


def plugins() -> Iterator[str]:
    """Every kind, every plugin, every option; then the options of the engine, which are no plugin's."""
    for kind in hookspecs.KINDS:
        yield f"## {PLURALS.get(kind, f'{kind}s').capitalize()}\n"
        if kind != "command":
            yield f"What `--{kind}` takes. {reference(interface(kind))} is the interface.\n"
        for offer in offers(kind):
            yield from plugin(offer)
    yield "## The engine\n"
    for group, cls in {"train": Train, "eval": Evaluate}.items():
        yield f"### `--{group}.*`\n\n{first_line(cls)}\n"
        yield from options(cls, f"--{group}.")


def plugin(offer: Offer) -> Iterator[str]:
    """One plugin: what it is, its class, its options."""
    yield f"({offer.kind}-{offer.name})=\n### {offer.kind} `{offer.name}`\n\n{sentence(offer.summary)}"
    try:
        cls = Registry.discover({}).load(offer.kind, offer.name)
    except PluginError:
        yield f"\nIts options are known where its libraries are installed: `pip install '{offer.extra}'`.\n"
        return
    needs = f" It needs `pip install '{offer.extra}'`." if offer.extra else ""
    yield f"{reference(cls)}.{needs}\n"
    yield from options(cls, "--" if offer.kind == "command" else f"--{offer.kind}.")
    if issubclass(cls, Teacher):
        if all(option.default is not attrs.NOTHING for option in options_of(cls)):
            names = ", ".join(f"`{name}`" for name in cls().recipes())
            yield f"Presets of `dimo run`: {names or 'none'}.\n"
        if cls.pretraining_options is not None:
            yield f"For `dimo pretrain --teacher {offer.name}`:\n"
            yield from options(cls.pretraining_options, "--model.")


def options(cls: type, prefix: str) -> Iterator[str]:
    """A table of the options of a class."""
    found = options_of(cls)
    if not found:
        yield "No options.\n"
        return
    yield ":::{container} options\n\n| option | default | what it is |\n|---|---|---|"
    for option in found:
        default = "required" if option.default is attrs.NOTHING else f"`{value(option.default)}`"
        kind = type_name(option.type).replace("|", "\\|")
        yield f"| `{prefix}{option.key}` | {cell(default)} | {cell(option.doc)} *({kind})* |"
    yield "\n:::\n"


def value(default: Any) -> str:
    """A default as a configuration file writes it, shortened where it is long."""
    text = yaml.safe_dump(plain(default), default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return text if len(text) <= 40 else f"{text[:37]}..."


def hooks() -> Iterator[str]:
    """The hook, and what each kind of plugin must and may implement."""
    hook, register = hookspecs.dimo_register, hookspecs.Register.__call__
    given = docstring_parser.parse(inspect.getdoc(register) or "", docstring_parser.DocstringStyle.GOOGLE)
    signature = str(inspect.signature(register)).replace("self, ", "").replace(" -> None", "")
    yield f"## `{hook.__name__}(register)`\n\n{cell(inspect.getdoc(hook) or '')}\n"
    yield f"```python\nregister{signature}\n```\n\n| argument | what it is |\n|---|---|"
    for argument in given.params:
        yield f"| `{argument.arg_name}` | {cell(' '.join((argument.description or '').split()))} |"
    api, group = hookspecs.PLUGIN_API, hookspecs.GROUP
    yield f"\nThe plugin API is version {api}; the entry point group is `{group}`.\n"
    for kind in hookspecs.KINDS:
        cls = interface(kind)
        yield f"(interface-{kind})=\n## {kind}\n\n{reference(cls)}: {cell(first_line(cls))}\n"
        rows = [*members(cls)]
        if rows:
            yield "| | name | what it is |\n|---|---|---|"
            yield from rows
        yield ""


def members(cls: type) -> Iterator[str]:
    """Rows for what a class defines or may override, bases of the core included; abstract names first."""
    abstract: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    names: dict[str, tuple[type, Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("dimo_core"):
            names |= {name: (base, vars(base)[name]) for name in [*vars(base)] if not name.startswith("_")}
    documented = field_docs(cls)
    for name in sorted(names, key=lambda name: (name not in abstract, name)):
        base, member = names[name]
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if callable(function) and function.__doc__:
            about = function.__doc__.strip().splitlines()[0]
            call = "" if isinstance(member, property) else "()"
        elif name in documented:
            about, call = documented[name], ""
        else:
            continue
        must = "**must**" if name in abstract else "may"
        yield f"| {must} | `{name}{call}` | {cell(about)} |"


def reference(cls: type) -> str:
    """A link to a class in the API reference."""
    return f"{{py:class}}`~{cls.__module__}.{cls.__qualname__}`"


def cell(text: str) -> str:
    """Text of a docstring in a cell of a Markdown table."""
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", "\\|").replace("$", "\\$").replace("<", "\\<")


def sentence(text: str) -> str:
    """A summary as a sentence."""
    return f"{text[:1].upper()}{cell(text[1:])}." if text else ""


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "plugins": plugins,
    "hooks": hooks,
}


def fill(app: Sphinx, docname: str, content: list[str]) -> None:
    """Replace the blocks of a page."""

    def made(block: re.Match[str]) -> str:
        if block[1] not in PAGES:
            raise ExtensionError(f"{docname}: nothing is generated as {block[1]!r}: {', '.join(PAGES)}")
        return "\n".join(PAGES[block[1]]())

    content[0] = FENCE.sub(made, content[0])


def outdated(app: Sphinx, env: Any, *changes: Any) -> list[str]:
    """Pages with such blocks are made anew in every build."""
    return [name for name in env.found_docs if FENCE.search(env.doc2path(name).read_text())]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the replacement."""
    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
