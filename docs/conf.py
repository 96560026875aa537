"""Sphinx: builds offline and strictly, ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

import sys
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "dimo"
author = "The dimo authors"
project_copyright = "2026, The dimo authors"
version = release = installed_version("dimo")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",
    "mathml",
    "notebook",
]
exclude_patterns = ["_build", "_ext"]
html_math_renderer = "mathml"

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Attributes and options are described in the docstring of their class, once.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
# Libraries of optional teachers are not needed to describe them.
autodoc_mock_imports = [name for name in ("diffusers", "transformers", "peft") if find_spec(name) is None]

html_theme = "furo"
html_title = "dimo"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["dimo.css"]
