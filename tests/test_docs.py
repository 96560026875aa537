"""The documentation says what the code does: its commands run, its examples work, nothing is left out."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import torch

import dimo_core
from dimo_core.cli import COMMANDS
from dimo_core.cli import main as command
from dimo_core.config.distil import Job
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.hookspecs import KINDS
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.one_step import OneStep
from dimo_core.method.process import draw_remask
from dimo_core.objective import Ingredients
from dimo_core.offers import Offer
from dimo_core.options import field_docs
from dimo_core.registry import Registry
from dimo_core.settings import Evaluate, Train
from dimo_core.teacher import Teacher

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / folder for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
NOTEBOOKS = sorted(path for path in DOCS.rglob("*.ipynb") if "_build" not in path.parts)
OFFERS = [offer for offer in Registry.discover({}).offers() if offer.dist == "dimo"]
OWN_OPTIONS: list[type] = [Train, Evaluate, Job]
TUTORIALS = ("index", "start", "text-to-image", "evaluating", "tuning")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_lines(text: str) -> Iterator[str]:
    for block in blocks(text, "sh"):
        yield from (line for line in block.splitlines() if line.strip() and not line.startswith("#"))


def public_modules() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            if not parts[-1].startswith("_"):
                yield ".".join(parts)
            elif parts[-1] == "__init__":
                yield ".".join(parts[:-1])


def options_classes() -> Iterator[type]:
    """Every class whose fields users set: registered ones, the engine's, and those nested in them."""
    registry = Registry.discover({})
    waiting = [*OWN_OPTIONS, *(registry.load(offer.kind, offer.name) for offer in OFFERS)]
    waiting += [
        cls.pretraining_options for cls in waiting if issubclass(cls, Teacher) and cls.pretraining_options
    ]
    seen: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            yield cls
            waiting += [f.type for f in attrs.fields(cls) if isinstance(f.type, type) and attrs.has(f.type)]


def test_every_option_is_documented_in_its_class() -> None:
    missing = [
        f"{cls.__module__}.{cls.__qualname__}.{field.name}"
        for cls in options_classes()
        for field in attrs.fields(cls)
        if not field_docs(cls).get(field.name)
    ]
    assert missing == []


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer.kind}-{offer.name}")
def test_every_plugin_says_in_one_line_what_it_is(offer: Offer) -> None:
    assert offer.summary
    assert len(offer.summary) <= 120


def test_every_page_is_in_a_table_of_contents_and_every_entry_is_a_page() -> None:
    notebooks = {path.with_suffix(".md") for path in NOTEBOOKS}
    listed = {
        (page.parent / f"{line.strip()}.md").resolve()
        for page in PAGES
        for block in blocks(page.read_text(), r"\{toctree\}")
        for line in block.splitlines()
        if line.strip() and not line.startswith(":")
    }
    pages = {*PAGES, *notebooks} - {DOCS / "index.md"}
    assert ([], []) == (sorted(pages - listed), sorted(listed - pages))


def test_every_public_module_is_in_the_reference() -> None:
    documented = {name for page in PAGES for name in re.findall(r"automodule:: (\S+)", page.read_text())}
    modules = set(public_modules())
    assert ([], []) == (sorted(modules - documented), sorted(documented - modules))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plugin_is_documented(kind: str) -> None:
    assert f"`{kind}`" in (DOCS / "plugins.md").read_text()


def test_the_hook_is_documented() -> None:
    text = (DOCS / "plugins.md").read_text()
    assert "dimo_register" in text
    assert "[project.entry-points.dimo]" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"`dimo {name}" in README
    assert f"dimo {name}" in (DOCS / "cli.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_top_level_pages_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_changelog_has_a_section_for_this_version() -> None:
    assert f"\n## {PROJECT['project']['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (tests,) = [line for line in shell_lines(README) if line.endswith("pytest")]
    in_ci = tests.replace(".venv", ".ci-venv")
    assert in_ci in map(str.strip, (ROOT / ".ci" / "run").read_text().splitlines())
    assert tests in shell_lines((ROOT / "CONTRIBUTING.md").read_text())


def run_commands() -> list[str]:
    """``dimo run`` as README and the tutorials write it, where it starts a run of its own."""
    tutorials = [(DOCS / f"{name}.md").read_text() for name in TUTORIALS]
    lines = [line for text in (README, *tutorials) for line in shell_lines(text)]
    written = [line.partition("bin/dimo run" if "bin/dimo" in line else "dimo run")[2] for line in lines]
    bare = [re.split(r" [#>] ", f"{text} ")[0].strip() for text in written if text]
    special = ("--help", "--resume", "--dry-run", "--teacher.checkpoint", "--print_config", "$seed")
    return sorted({text for text in bare if not any(flag in text for flag in special)})


@pytest.mark.parametrize("text", run_commands())
def test_runs_that_the_documentation_shows_are_accepted(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIMO_TRACEBACK", "1")
    assert command(["run", *shlex.split(text), "--print_config"]) == 0, capsys.readouterr().err
    assert "divergence:" in capsys.readouterr().out


def test_the_box_of_the_readme_holds_every_plugin_and_no_other() -> None:
    box = README.partition("## What is in the box")[2].partition("\n## ")[0]
    rows = [row.split("|")[2] for row in box.splitlines() if row.startswith("|")][2:]
    named = {name.removeprefix("dimo ") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {offer.name for offer in OFFERS} == named


def test_the_readme_shows_at_least_the_main_job() -> None:
    assert "--teacher maskgit --divergence jeffrey --beta 0.2" in run_commands()


def test_the_algorithm_of_the_readme_trains_generator_and_auxiliary(tiny_teacher: Any) -> None:
    ingredients = Ingredients(
        teacher=tiny_teacher,
        generator=OneStep(),
        auxiliary=Denoiser(),
        divergence=readme_plugin("dimo_lecam/divergence.py").LeCam(),
        guidance=Constant(scale=2.0),
    )
    step = Dimo().build(ingredients).step
    # The auxiliary starts as the teacher; only where they differ has the generator a gradient.
    with torch.no_grad():
        for parameter in step.p_psi.parameters():
            parameter.add_(0.1 * torch.arange(parameter.numel()).view_as(parameter).sin())
    names = {"draw_remask": draw_remask, "step": step, "c": torch.tensor([0, 1, 0]), "B": 3}
    names |= {
        "L": 4,
        "schedule": "cosine",
        "masking": "exact",
        "draws": Draws(seed=0, total=3),
    }
    exec(blocks(README, "python")[0], names)
    for network in (step.p_theta, step.p_psi):
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        assert any(bool((p.grad != 0).any()) for p in trained if p.grad is not None)
    assert all(p.grad is None for p in step.p_phi.parameters())


def readme_plugin(name: str) -> ModuleType:
    """A module of README's plugin, found by the comment in its first line."""
    (source,) = [block for block in blocks(README, "python") if block.startswith(f"# {name}")]
    module = ModuleType(name.removesuffix(".py").replace("/", "."))
    exec(source, vars(module))
    return module


def test_the_plugin_of_the_readme_registers_and_computes_le_cams_divergence() -> None:
    offered = []
    readme_plugin("dimo_lecam/plugin.py").dimo_register(lambda *names, summary: offered.append(names))
    assert [("divergence", "lecam", "dimo_lecam.divergence:LeCam")] == offered
    lecam = readme_plugin("dimo_lecam/divergence.py").LeCam()
    z = torch.linspace(-2, 2, 12, dtype=torch.float64).view(2, 6)
    log_p, z_psi = z.sin().log_softmax(-1), z.cos().requires_grad_()
    p, q = log_p.exp(), z_psi.softmax(-1)
    expected = ((p - q) ** 2 / (2 * (p + q))).sum(-1)
    log_q = z_psi.detach().log_softmax(-1)
    torch.testing.assert_close(lecam.value(log_p, log_q), expected.detach())
    (gradient,) = torch.autograd.grad(expected.sum(), z_psi)
    torch.testing.assert_close(lecam.grad(log_p, log_q), gradient)


def test_the_plugin_of_the_readme_has_twelve_lines() -> None:
    written = [
        line
        for block in [*blocks(README, "toml"), *blocks(README, "python")]
        if "lecam" in block
        for line in block.splitlines()
        if line.strip() and not line.startswith(("#", "["))
    ]
    assert len(written) == 12


def test_what_the_documentation_imports_from_the_core_is_public() -> None:
    used = {
        name
        for page in [README, *(p.read_text() for p in PAGES)]
        for name in re.findall(r"\bdimo\.([a-z_]+)\(", page)
    }
    assert used
    assert used <= set(dimo_core.__all__)
