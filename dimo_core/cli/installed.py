"""``dimo plugins`` and ``dimo doctor``: what is installed, from where, and what is missing or failed."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import attrs

from dimo_core.cli.command import Parser, option
from dimo_core.errors import DimoError
from dimo_core.hookspecs import KINDS
from dimo_core.offers import Offer
from dimo_core.registry import Registry
from dimo_core.texts import shown


def plugins(argv: Sequence[str]) -> int:
    """``dimo plugins``: what is installed, from which package, and what failed and why; or ``new``."""
    if argv[:1] == ["new"]:
        return new(argv[1:])
    parser = Parser(
        "dimo plugins",
        "List installed plugins. Only what registers them is imported, unless --check is given. "
        "`dimo plugins new KIND NAME` writes a package of your own.",
        "Exit code 1 when --check finds a plugin that cannot be used. DIMO_DISABLE_PLUGINS=NAME,... "
        "leaves out entry points or distributions, 'all' every distribution but dimo; DIMO_STRICT_PLUGINS=1 "
        "stops at the first broken one.",
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=" | ".join(KINDS))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="import all, and say which cannot be used")
    options = parser.parse_args(argv)
    registry = Registry.discover()
    rows = [describe(registry, offer, check=options.check) for offer in registry.offers(options.kind)]
    if options.json:
        broken, disabled = ([*map(attrs.asdict, found)] for found in (registry.broken, registry.disabled))
        print(json.dumps({"plugins": rows, "broken": broken, "disabled": disabled}, indent=1))
    else:
        print(_table(rows, registry))
    failed = registry.broken or any(row["state"] != "ok" for row in rows)
    return 1 if options.check and failed else 0


def new(argv: Sequence[str]) -> int:
    """``dimo plugins new``: a package of one's own to start from."""
    from dimo_core.jobs.new_package import EXAMPLES, new_package

    parser = Parser(
        "dimo plugins new",
        "Write a complete package with a plugin that works and passes its tests, to be changed into yours.",
        "Nothing is overwritten. docs/plugins.md goes through such a package.",
    )
    parser.add_argument("kind", choices=tuple(EXAMPLES), metavar="KIND", help=" | ".join(EXAMPLES))
    parser.add_argument("name", metavar="NAME", help="what users will type: --divergence NAME")
    option(parser, "--out", "FOLDER", "the folder to make (default: dimo-NAME)")
    options = parser.parse_args(argv)
    folder = new_package(options.kind, options.name, options.out)
    _, _, block = (folder / "README.md").read_text(encoding="utf-8").partition("```sh\n")
    steps = ["cd " + shlex.quote(str(folder)), *block.partition("```")[0].splitlines()]
    special = {"conditions": "a source of conditions", "objective": "an objective"}
    what = special.get(options.kind, f"a {options.kind}")
    print("\n".join([f"{folder} holds {what} that works. Now:", *(f"  {step}" for step in steps)]))
    return 0


def describe(registry: Registry, offer: Offer, *, check: bool = False) -> dict[str, Any]:
    """One offer with its state: ``ok``, ``clash``, or ``broken`` when checked and not usable."""
    state, error = "clash", ""
    try:
        registry.offer(offer.kind, offer.name)
        state = "broken"
        if check:
            registry.load(offer.kind, offer.name)
        state = "ok"
    except DimoError as found:
        error = str(found)
    return {**attrs.asdict(offer), "state": state, "error": error}


def _table(rows: Sequence[dict[str, Any]], registry: Registry) -> str:
    cells = [("KIND", "NAME", "FROM", "STATE", "SUMMARY")]
    cells += [(r["kind"], r["name"], f"{r['dist']} {r['version']}", r["state"], r["summary"]) for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in cells
    ]
    clashes = dict.fromkeys(row["error"] for row in rows if row["state"] == "clash")
    lines += [f"CLASH     {error}" for error in clashes]
    lines += [f"BROKEN    {r['error']}" for r in rows if r["state"] == "broken"]
    lines += [f"BROKEN    {source.origin}: {source.error}" for source in registry.broken]
    lines += [f"DISABLED  {source.origin}" for source in registry.disabled]
    return "\n".join(map(shown, lines))


def doctor(argv: Sequence[str]) -> int:
    """``dimo doctor``: versions, devices, and which libraries of an extra are missing."""
    from dimo_core.jobs.doctor import examine

    parser = Parser("dimo doctor", "Show versions and devices, and which libraries of an extra are missing.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    found = examine()
    print(json.dumps(found, indent=1) if options.json else _examined(found))
    return 0


def _examined(found: dict[str, Any]) -> str:
    width = max(map(len, found["versions"]))
    extras = {
        name: f"missing {', '.join(lost)}" if lost else "complete" for name, lost in found["extras"].items()
    }
    sections = {
        "Versions": [f"{name:<{width}}  {v or 'not installed'}" for name, v in found["versions"].items()],
        "Extras": [f"dimo[{name}]: {state}" for name, state in extras.items()],
        "Devices": [", ".join(found["devices"]) or "none found"],
        "Libraries, imported as a trial": [
            f"{lib['name']}: {lib['state']} ({lib['purpose']})" for lib in found["libraries"]
        ],
        "Advice": [f"- {text}" for text in found["advice"] or [_rest(found["extras"])]],
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items())


def _rest(extras: dict[str, list[str]]) -> str:
    """What there is to say when all that dimo itself needs is there."""
    lost = [name for name, missing in extras.items() if missing]
    more = f"; of what some options need, extras are missing: pip install 'dimo[{','.join(lost)}]'"
    return f"nothing is missing that dimo itself needs{more if lost else ''}"
