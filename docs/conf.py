"""`make docs`: the pages and the API reference as HTML.

Sphinx reads the checkout from its root, so links between pages lead where they lead on
GitHub.
"""

# pylint: disable=invalid-name
# The names are Sphinx's.

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import muninn  # noqa: E402  # after the line that finds it

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Muninn"
author = "The Muninn authors"
version = release = muninn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["*.md", "docs/**.md", "tests/*/README.md"]
exclude_patterns = [".venv", "build", ".github"]
html_theme = "alabaster"
html_theme_options = {
    "description": "memory that processes and GPUs of one Linux host share",
    "page_width": "1100px",
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchfield.html"]}

myst_heading_anchors = 4  # links to headings, by the anchors that GitHub gives them

autosummary_generate = False  # numpydoc loads autosummary, and nothing here uses it
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say what a parameter is, in words
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
# A docstring of the public surface has a summary, sections that parse, in their order,
# and no parameter that the signature lacks.
numpydoc_validation_checks = {"GL06", "GL07", "GL08", "SS01", "PR02", "PR10"}
numpydoc_validation_exclude = {r"\.__", r"muninn\.errors\."}

nitpicky = True
# Inventories of other projects cannot be fetched where this is built.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|collections|typing|types|asyncio|pathlib|ctypes|os)\..*")
]


def addToctree(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give an index page the tree of the pages that it links, in the order of its
    links: written there, GitHub would show it as code.
    """
    if page not in ("docs/index", "docs/design/0000-index"):
        return
    linked = dict.fromkeys(re.findall(r"\]\(([^):#]+\.md)\)", source[0]))
    source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(linked) + "\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", addToctree)
