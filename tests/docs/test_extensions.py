"""What the site makes of the sources when it is built: equations, generated pages, notebooks."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from sphinx.errors import ExtensionError

from dimo_core.cli import COMMANDS
from dimo_core.hookspecs import KINDS
from dimo_core.options import options_of
from dimo_core.registry import Registry
from dimo_core.settings import Evaluate, Train

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Extensions of Sphinx are no package: Sphinx finds them in their folder."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import cells
    import generated
    import mathml
    import notebook

    return {"cells": cells, "generated": generated, "mathml": mathml, "notebook": notebook}


def equations() -> list[tuple[str, str]]:
    """Page and source of every equation, code left out."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for block, inline in re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$", text, re.DOTALL):
            found.append((page.name, block or inline))
    return found


def test_every_equation_becomes_mathml(extensions: dict[str, ModuleType]) -> None:
    convert = extensions["mathml"].CONVERTER.convert_with_local_state
    made = [convert(latex, displaystyle=True) for _, latex in equations()]
    assert len(made) > 100
    assert all(text.startswith("<math") and "\\" not in text for text in made)


def test_a_mistake_in_an_equation_is_an_error(extensions: dict[str, ModuleType]) -> None:
    with pytest.raises(extensions["mathml"].LatexError):
        extensions["mathml"].CONVERTER.convert_with_local_state(r"\unknown{x}", displaystyle=False)


@pytest.mark.slow
def test_every_plugin_and_option_is_in_the_reference(extensions: dict[str, ModuleType]) -> None:
    text, registry = "\n".join(extensions["generated"].plugins()), Registry.discover({})
    offers = [offer for offer in registry.offers() if offer.dist == "dimo"]
    assert [o.name for o in offers if f"### {o.kind} `{o.name}`\n" not in text] == []
    prefixes = {f"--{o.kind}.": registry.load(o.kind, o.name) for o in offers if o.kind != "command"}
    prefixes |= {"--train.": Train, "--eval.": Evaluate}
    wanted = [f"`{prefix}{option.key}`" for prefix, cls in prefixes.items() for option in options_of(cls)]
    assert [option for option in wanted if option not in text] == []


def test_the_reference_of_hooks_says_what_must_be_defined(extensions: dict[str, ModuleType]) -> None:
    text = "\n".join(extensions["generated"].hooks())
    assert [kind for kind in KINDS if f"(interface-{kind})=" not in text] == []
    assert "## `dimo_register(register" in text
    for name in ("conditioning", "encode_conditions()", "network()", "build()", "value()"):
        assert f"| **must** | `{name}` |" in text
    assert "| may | `describe()` |" in text


@pytest.mark.slow
def test_every_command_shows_its_help(extensions: dict[str, ModuleType]) -> None:
    parts = [*extensions["generated"].commands()]
    assert len(parts) >= len(COMMANDS)
    for name, text in zip(COMMANDS, parts, strict=False):
        assert f"usage: dimo {name}" in text


def test_cells_show_what_they_print_and_their_last_value(extensions: dict[str, ModuleType]) -> None:
    class Picture:
        def _repr_png_(self) -> bytes:
            return b"png"

    run, show = extensions["cells"].run, extensions["cells"].show
    assert run(["x = 2", "print(x)\nx + 1", "x;\nNone"]) == [
        {"printed": ""},
        {"printed": "2\n", "text": "3"},
        {"printed": ""},
    ]
    assert show(Picture()) == {"png": "cG5n"}
    *_, last = run(["1", "1 / 0", "2"])
    assert "ZeroDivisionError" in last["error"]


def test_a_notebook_becomes_markdown_and_a_failing_cell_fails_the_build(
    extensions: dict[str, ModuleType],
) -> None:
    def notebook(code: str) -> str:
        cells = [{"cell_type": "markdown", "source": ["# Title\n", "text"]}]
        return json.dumps({"cells": [*cells, {"cell_type": "code", "source": [code]}]})

    markdown = extensions["notebook"].markdown
    made = markdown(notebook("print('seen')"), "page")
    assert made.startswith("# Title\ntext\n\n```python\nprint('seen')\n```\n")
    assert "````text\nseen\n````" in made
    with pytest.raises(ExtensionError, match=r"(?s)page: cell 1 failed.*NameError"):
        markdown(notebook("nothing"), "page")


def test_notebooks_are_kept_without_outputs() -> None:
    for path in DOCS.rglob("*.ipynb"):
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert code
        assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
def test_the_page_of_file_formats_names_what_is_written(tmp_path: Path) -> None:
    from dimo_core.jobs.distil import distill
    from dimo_core.jobs.sample import sample_folder

    page = (DOCS / "formats.md").read_text()
    judged = {"every": 1, "samples": 40, "samples_on_the_way": 40, "steps": [1]}
    train = {"steps": 2, "batch_size": 4, "log_every": 1, "checkpoint_every": 1}
    distill(teacher="maskgit", train=train, eval=judged, out=str(tmp_path / "run"), device="cpu")
    sample_folder(str(tmp_path / "run"), count=2, out=str(tmp_path / "drawn"))
    run = tmp_path / "run"
    names = {path.name for path in [*run.iterdir(), *(tmp_path / "drawn").iterdir()]}
    names |= {path.name for path in (run / "generator").iterdir()}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    entries = {key for line in lines for key in json.loads(line)}
    entries |= {*json.loads((run / "checkpoints/step_000002/manifest.json").read_text())}
    entries |= {*json.loads((run / "evaluation.json").read_text())["rows"][0].keys()} & {"kind", "passes"}
    entries |= {*json.loads((tmp_path / "drawn/samples.jsonl").read_text().splitlines()[0])}
    entries |= set(re.findall(r"^(\w+):", (run / "generator/generator.yaml").read_text(), re.MULTILINE))
    known = {re.sub("^grad_norm_.*", "grad_norm_PART", re.sub("^eval/.*", "eval/METRIC", e)) for e in entries}
    assert sorted(name for name in names if name not in page and not name.endswith(".png")) == []
    assert sorted(entry for entry in known if f"`{entry}`" not in page) == []
