"""What the pages for authors say of the kit, of teachers and of the packages is complete and right."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import dimo_core.testing
from dimo_core.hookspecs import KINDS
from dimo_core.jobs.new_package import EXAMPLES, Names
from dimo_core.teacher import Teacher
from dimo_core.testing import check_teacher

ROOT = Path(__file__).parents[3]
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
TEACHER = PAGES["writing-a-teacher.md"]
KIT = (ROOT / "docs" / "api" / "testing.md").read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of each line of tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]


def methods() -> dict[str, str]:
    """What the page says of each method of a teacher."""
    ((_, _, section),) = [TEACHER.partition("What there is to define")]
    table = rows(section.partition("## Conditions")[0])[2:]
    return {name: needed for names, needed, _ in table for name in re.findall(r"`(\w+)`", names)}


def test_the_page_about_teachers_tells_every_method() -> None:
    public = {name for name in vars(Teacher) if not name.startswith("_")}
    assert sorted(public) == sorted(methods())


def test_the_page_about_teachers_tells_which_methods_are_required() -> None:
    required = {name for name, needed in methods().items() if needed == "required"}
    assert set(Teacher.__abstractmethods__) == required


def test_the_page_about_the_kit_names_every_check() -> None:
    assert list(dict.fromkeys(KINDS)) != []
    assert {f"`{kind}`" for kind in KINDS} == {cells[0] for cells in rows(KIT)[2:]}
    checks = {name for name in dimo_core.testing.__all__ if name.startswith("check_")}
    assert checks == set(re.findall(r"`(check_\w+)\(?", KIT))


@pytest.mark.parametrize(("kind", "name"), EXAMPLES.items())
def test_a_page_shows_each_package_itself(kind: str, name: str) -> None:
    """Its text is written once: the pages include it."""
    shown = {file for text in PAGES.values() for file in re.findall(r"literalinclude\} \.\./(\S+)", text)}
    assert f"examples/dimo-{name}/src/{Names(name).package}/{kind}.py" in shown
    assert f"| `{kind}` | `dimo-{name}` |" in PAGES["plugins.md"]


def test_pages_include_files_and_lines_that_exist() -> None:
    pattern = r"\{literalinclude\} (\S+)\n((?::.*\n)*)"
    for page in (ROOT / "docs").rglob("*.md"):
        for file, options in re.findall(pattern, page.read_text()):
            text = (page.parent / file).read_text()
            for edge in re.findall(r":(?:start-at|end-before): (.*)", options):
                assert edge.strip('"') in text, (page, file, edge)


def test_the_teacher_of_the_notebook_keeps_the_contract() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", TEACHER, re.DOTALL)
    tree = ast.parse(source)
    tree.body.pop()  # the run itself
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(tree, "notebook", "exec"), names)
    check_teacher(names["Judged"](), [0, 1])
    (metric,) = names["Judged"]().evaluation().metrics
    assert metric.plugin == names["Zeros"]()
