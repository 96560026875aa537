"""The parts of gpu.sh, each under its own time limit, and what came of them: results.json and results.md.

    python benchmarks/gpu_report.py OUT [--device cuda] [--size full] [--parts tests maskgit ...]

Uses nothing but Python, so that a machine which lacks everything still gets a report that says so.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[1]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
EXTRAS = ("digits", "meissonic", "clip", "lora", "dllm")
TOOLS = ("pytest>=8.3", "pytest-xdist>=3.6", "hypothesis>=6.110")
CONTENDERS = ("released", "paper", "fast", "fast, compiled")
FACTS = """
import json, torch
cuda = torch.cuda.is_available()
memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else 0
print(json.dumps({
    "torch": torch.__version__,
    "built for CUDA": torch.version.cuda,
    "card": torch.cuda.get_device_name() if cuda else None,
    "memory of the card, GiB": round(memory, 1),
}))
"""


def wanted() -> list[str]:
    """Requirements of what the parts import."""
    extras = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(each for name in EXTRAS for each in extras[name]), *TOOLS]


def lacks() -> list[str]:
    """Those of them that this Python has not; their versions are not looked at."""
    missing = []
    for requirement in wanted():
        try:
            version(re.split(r"[\[<>=~! ]", requirement)[0])
        except PackageNotFoundError:
            missing.append(requirement)
    return missing


def parts_of(out: Path, given: argparse.Namespace) -> dict[str, tuple[int, list[str]]]:
    """By name, seconds at most and the command; most of the time is for what everything else hangs on."""
    device = ["--device", given.device]
    tests = [
        "-o",
        "addopts=",
        "-o",
        "markers=gpu: here\nslow: not here",
        "--import-mode=importlib",
        "-v",
        "-m",
        "gpu",
        "-n",
        str(given.workers),
    ]
    found = {"tests": (160, ["-m", "pytest", *tests, "-W", "default", "--tb=short", given.tests])}

    size = "tiny" if given.size == "tiny" else "full"
    what = ["--size", size, *device, "--json", str(out / "billions.json")]
    found["billions"] = (60, ["benchmarks/billions.py", *what])

    def step(name: str, teacher: str, contenders: Sequence[str], seconds: int) -> None:
        what = ["--teachers", teacher, "--contenders", *contenders, "--size", given.size, *device]
        how = ["--precision", given.precision, "--rounds", str(given.rounds)]
        script = "benchmarks/step.py"
        found[name] = (seconds, [script, *what, *how, "--json", str(out / f"{name}.json")])

    step("maskgit", "maskgit", CONTENDERS, 100)
    for contender in CONTENDERS:  # two of them at full size would not fit a card of 80 GB
        step(f"meissonic, {contender}", "meissonic", (contender,), 42)
    heads = ["benchmarks/bf16_heads.py", *device, "--seeds", "2", "--json", str(out / "heads.json")]
    return {**found, "heads": (30, heads)}


def taken(
    command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a part; when its time is over, it and its children are ended."""
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=TREE,
            env=dict(environment),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
            state = "passed" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            state, code = "out of time", None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    tail = log.read_text(errors="replace")[-2000:] if state != "passed" else ""
    spent = round(time.monotonic() - began, 1)
    return {"state": state, "code": code, "seconds": spent, "at_most": round(seconds, 1), "tail": tail}


def tested(log: str) -> dict[str, Any]:
    """Counts and failures, from pytest's lines; also of a run that was ended."""
    seen = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", log, re.MULTILINE)
    by_workers = re.findall(
        r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED) (\S+::.+?) *$", log, re.MULTILINE
    )
    seen += [(name, word) for word, name in by_workers]
    counts = {
        word.lower(): sum(word == each for _, each in seen)
        for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")
    }
    return {**counts, "not_passed": [name for name, word in seen if word in ("FAILED", "ERROR")]}


def gathered(out: Path) -> dict[str, Any]:
    """What the parts measured: a step by teacher and contender, and gradients by way of computing."""
    found: dict[str, Any] = {}
    for file in sorted(out.glob("m*.json")):
        for name, one in json.loads(file.read_text()).items():
            if name in ("maskgit", "meissonic"):
                every = found.setdefault(
                    name, {key: one[key] for key in ("batch", "operations_of_F", "passes")}
                )
                for contender, row in one["rows"].items():
                    own = {key: row[key] for key in ("seconds", "peak_bytes", "share_of_floor")}
                    kernels = list(row["kernels"].items())[:12]
                    own |= {"rate": one["rate"], "kernels": dict(kernels)}
                    every.setdefault("rows", {})[contender] = own
    for name in ("heads", "billions"):
        if (file := out / f"{name}.json").exists():
            found[name] = json.loads(file.read_text())
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """One page of all of it."""
    lines = ["# On a GPU", "", "| | |", "|---|---|"]
    lines += [
        f"| {key} | {'none' if value in (None, []) else value} |" for key, value in results["machine"].items()
    ]
    lines += ["", "| part | | seconds | at most |", "|---|---|--:|--:|"]
    lines += [
        f"| {n} | {p['state']} | {p['seconds']} | {p['at_most']} |" for n, p in results["parts"].items()
    ]
    if tests := results["tests"]:
        counts = ", ".join(f"{tests[key]} {key}" for key in ("passed", "failed", "error", "skipped"))
        lines += ["", f"Tests: {counts}.", *(f"* not passed: `{name}`" for name in tests["not_passed"])]
    for teacher in ("maskgit", "meissonic"):
        if one := results["measured"].get(teacher):
            lines += ["", *steps(teacher, one)]
    if heads := results["measured"].get("heads"):
        lines += ["", "| gradient, and how it was computed | apart from float64 |", "|---|--:|"]
        lines += [f"| {name} | {share:.2%} |" for name, share in heads.items()]
    if billions := results["measured"].get("billions"):
        lines += ["", *planned(billions)]
    for name, part in results["parts"].items():
        if part["tail"]:
            lines += ["", f"The end of `{name}`, {part['state']}:", "", "```", part["tail"].strip(), "```"]
    return "\n".join(lines) + "\n"


def steps(teacher: str, one: Mapping[str, Any]) -> list[str]:
    """The table of one teacher; ratios are to the emulation of the released step, where that was measured."""
    base = one["rows"].get("released")
    lines = [
        f"**{teacher}**, batch {one['batch']}: F is {one['operations_of_F'] / 1e12:.3f} TFLOP, the floor "
        f"{one['passes']} F at the rate of matrix products.",
        "",
        "| | seconds a step | times as fast as released | peak GiB | share of released's | "
        "products, TFLOP/s | share of the floor |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in one["rows"].items():
        ratios = ["", ""]
        if base:
            ratios = [
                f"{base['seconds'] / row['seconds']:.2f}",
                f"{row['peak_bytes'] / base['peak_bytes']:.2f}",
            ]
        lines.append(
            f"| {name} | {row['seconds']:.4f} | {ratios[0]} | {row['peak_bytes'] / 2**30:.2f} | "
            f"{ratios[1]} | {row['rate'] / 1e12:.2f} | {row['share_of_floor']:.2f} |"
        )
    return lines


def planned(found: Mapping[str, Any]) -> list[str]:
    """The table of large language models: what ``--dry-run`` planned, and what a step took."""
    lines = ["| | trained parameters | planned, GiB | measured | seconds a step |", "|---|--:|--:|--:|--:|"]
    for name, one in found.items():
        if name != "machine":
            trained = sum(own for _, own in one["parameters"].values())
            sizes = " | ".join(f"{one[key] / 2**30:.2f}" for key in ("planned", "measured"))
            lines.append(f"| {name} | {trained:,} | {sizes} | {one['seconds']:.3f} |")
    return lines


def machine(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers are of."""

    def said(*command: str) -> str | None:
        try:
            run = subprocess.run(
                command,
                cwd=TREE,
                env=dict(environment),
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return run.stdout.strip() or None

    facts = said(sys.executable, "-c", FACTS)
    return {
        "card": None,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        **(json.loads(facts.splitlines()[-1]) if facts else {"torch": None}),
        "python": platform.python_version(),
        "commit": said("git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=40"),
        "lacks": lacks(),
    }


def environment_in(folder: str) -> dict[str, str]:
    """The tree as if it were installed: its packages on the path, and its plugins' entry points."""
    facts = Path(folder) / f"dimo-{PROJECT['version']}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dimo\nVersion: {PROJECT['version']}\n")
    points = [f"{name} = {target}" for name, target in PROJECT["entry-points"]["dimo"].items()]
    (facts / "entry_points.txt").write_text("\n".join(["[dimo]", *points, ""]))
    places = [folder, TREE, *(TREE / name for name in ("teachers", "divergences", "plugins"))]
    path = os.pathsep.join([*map(str, places), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def main() -> None:
    """Run the parts, one after the other, and write after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, help="folder of the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="full")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tests", default="tests/gpu", help="what pytest is given")
    parser.add_argument("--workers", type=int, default=4, help="processes that run tests side by side")
    parser.add_argument("--parts", nargs="+", help="these only")
    parser.add_argument("--limit", nargs="+", default=[], help="PART=SECONDS: another limit than its own")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds that are gone already")
    parser.add_argument("--wanted", action="store_true", help="print requirements and stop")
    parser.add_argument(
        "--lacks", action="store_true", help="print those that are not met; fails if there are any"
    )
    given = parser.parse_args()
    if given.wanted or given.lacks:
        names = wanted() if given.wanted else lacks()
        print("\n".join(names))
        sys.exit(bool(given.lacks and names))
    if given.out is None:
        parser.error("a folder for the results is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    sys.exit(perform(given.out.resolve(), given))


def perform(out: Path, given: argparse.Namespace) -> int:
    """All parts within the time; 1 if any did not pass."""
    ends = time.monotonic() + 60 * given.minutes - given.spent
    limits = {name: float(seconds) for name, seconds in (each.rsplit("=", 1) for each in given.limit)}
    for old in out.glob("*.json"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_in(folder)
        if given.device != "cuda":
            environment["DIMO_GPU_TESTS_ON"] = given.device
        results: dict[str, Any] = {"machine": machine(environment), "parts": {}, "tests": {}, "measured": {}}
        results["machine"]["device, size, precision"] = f"{given.device}, {given.size}, {given.precision}"
        for name, (seconds, command) in parts_of(out, given).items():
            if given.parts and name.partition(",")[0] not in given.parts:
                continue
            log, left = out / f"{name}.log", ends - time.monotonic() - 3
            limit = min(limits.get(name, seconds), left)
            skipped = {"state": "no time left", "code": None, "seconds": 0.0, "at_most": 0.0, "tail": ""}
            part = taken(command, log, limit, environment) if limit > 1 else skipped
            print(f"{name}: {part['state']} after {part['seconds']} s", flush=True)
            results["parts"][name] = part
            if name == "tests" and log.exists():
                results["tests"] = tested(log.read_text(errors="replace"))
            results["measured"] = gathered(out)
            write(out, results)
    return int(any(part["state"] != "passed" for part in results["parts"].values()))


def write(out: Path, results: Mapping[str, Any]) -> None:
    """Both files."""
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "results.md").write_text(markdown(results))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu_report: ended by SIGTERM"))  # and its part with it
    main()
