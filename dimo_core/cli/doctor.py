"""``dimo doctor``: versions, devices, and what is missing for which command."""

import json
from collections.abc import Sequence

from dimo_core.cli.parsing import Parser
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
    lines = ["Versions"]
    width = max(map(len, found["versions"]))
    lines += [
        f"  {name:<{width}}  {version or 'not installed'}" for name, version in found["versions"].items()
    ]
    lines += ["", "Extras"]
    for name, missing in found["extras"].items():
        lines.append(f"  dimo[{name}]: {'missing ' + ', '.join(missing) if missing else 'complete'}")
    lines += ["", "Devices", f"  {', '.join(found['devices']) or 'none found'}"]
    lines += ["", "Libraries, imported as a trial"]
    lines += [f"  {lib['name']}: {lib['state']} ({lib['purpose']})" for lib in found["libraries"]]
    lines += ["", "Advice"]
    lines += [f"  - {text}" for text in found["advice"] or ["nothing is missing"]]
    return "\n".join(lines)
