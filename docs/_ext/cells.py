"""Runs the cells of a notebook: code as a JSON list on stdin, what came of it as one on stdout.

``notebook.py`` starts it as a script. Each cell gives what it printed, the value of its last expression as
text or as a PNG file in base64, and the traceback where it failed; nothing runs after that.
"""

import ast
import base64
import contextlib
import io
import json
import sys
import traceback
from typing import Any


def run(cells: list[str]) -> list[dict[str, str]]:
    """Run cells one after another, in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found: list[dict[str, str]] = []
    for number, code in enumerate(cells, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                shown = show(execute(code, f"cell {number}", names))
            except Exception:
                return [*found, {"error": traceback.format_exc()}]
        found.append({"printed": printed.getvalue(), **shown})
    return found


def execute(code: str, name: str, names: dict[str, Any]) -> object:
    """Run one cell; the value of its last statement, where that is an expression."""
    tree = ast.parse(code, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None


def show(value: object) -> dict[str, str]:
    """A value as a notebook shows it: pictures and figures as PNG, else its repr; None as nothing."""
    if value is None:
        return {}
    if hasattr(value, "_repr_png_"):
        png = value._repr_png_()
    elif hasattr(value, "savefig"):
        buffer = io.BytesIO()
        value.savefig(buffer, format="png", dpi=110)
        png = buffer.getvalue()
    else:
        return {"text": repr(value)}
    return {"png": base64.b64encode(png).decode()}


if __name__ == "__main__":
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        results = run(json.load(sys.stdin))
    json.dump(results, out)
