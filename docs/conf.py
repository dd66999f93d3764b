"""Settings of the documentation site: `make docs` builds it into build/docs."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS.parent)]

import osp_jax  # noqa: E402

project = "osp_jax"
author = "The osp_jax developers"
copyright = author
version = release = osp_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "method_pages",
    "repository_pages",
    "result_figures",
]
exclude_patterns = ["extensions"]
templates_path: list[str] = []
default_role = "code"  # docstrings put code between single backticks
highlight_language = "python"

# Markdown
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # headings have the anchors that GitHub gives them
suppress_warnings = ["myst.header"]  # result tables start below their level

# Notebooks are executed when the site is built, and kept by their content.
nb_execution_mode = "cache"
nb_execution_timeout = 1200  # seconds a cell, for a busy machine
nb_execution_raise_on_error = True
nb_execution_cache_path = str(DOCS.parent / "build" / "notebooks")

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
# Types of other libraries, and what is documented in words only: their own sites are not read when this one is built.
nitpick_ignore_regex = [(r"py:.*", r".*")]

html_theme = "furo"
html_title = "osp_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
