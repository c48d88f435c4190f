"""How Sphinx builds these pages: `sphinx-build -W --keep-going -n docs docs/_build`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from generated_reference import absent

from maxsearch import __version__

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # autodoc imports jax, which is to look for no chips

project = "maxsearch"
author = "the maxsearch authors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generated_reference",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", *absent()]

myst_enable_extensions = ["deflist", "colon_fence", "attrs_block"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100
default_role = "literal"  # single backquotes in docstrings are code
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages; there is no network to look their pages up

html_theme = "furo"
html_title = "maxsearch"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
html_show_sphinx = False
