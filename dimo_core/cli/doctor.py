"""``dimo doctor``: versions, devices, and what is missing for which command."""

import json
from collections.abc import Sequence

from dimo_core.cli.command import Parser
from dimo_core.jobs.doctor import Examination, examine


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo doctor``."""
    parser = Parser("dimo doctor", "Show versions and devices, and what is missing for which command.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    found = examine()
    print(json.dumps(found, indent=1) if options.json else _text(found))
    return 0


def _text(found: Examination) -> str:
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
        "Advice": [f"- {text}" for text in found["advice"] or ["nothing is missing"]],
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items())
