"""Sphinx: equations as MathML, made when the site is built; browsers draw them without a script or a network.

The converter is math-core, which refuses what it does not know; so a mistake in an equation is a warning of
the build, and an error with ``-W``. STIX Two Math goes along as a web font, for machines without a font for
mathematics: the file is that of the package ziamath, and is not kept in the repository.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

CONVERTER = LatexToMathML(fancy_error=False)
FONT = "STIXTwoMath-Regular.ttf"
logger = logging.getLogger(__name__)


def mathml(latex: str, node: nodes.Element, *, block: bool) -> str:
    """An equation as MathML; as text, with a warning, where it cannot be read."""
    try:
        return CONVERTER.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        logger.warning("equation %r: %s", latex, error, location=node)
        return f"<code>{nodes.unescape(latex)}</code>"


def inline(translator: Any, node: nodes.math) -> None:
    """An equation within a line."""
    translator.body.append(f'<span class="math">{mathml(node.astext(), node, block=False)}</span>')
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """An equation of its own."""
    translator.body.append(
        f'<div class="math" tabindex="0">{mathml(node.astext(), node, block=True)}</div>\n'
    )
    raise nodes.SkipNode


def copy_font(app: Sphinx, error: Exception | None) -> None:
    """Put the font beside the style sheet, where its package is installed."""
    spec = find_spec("ziamath")
    if error is None and app.builder.format == "html" and spec is not None and spec.origin is not None:
        font = Path(spec.origin).parent / "fonts" / FONT
        if font.exists():
            shutil.copyfile(font, Path(app.outdir) / "_static" / FONT)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
