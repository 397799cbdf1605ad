"""Settings of the documentation site, which `make docs` builds with Sphinx and MyST."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from docs import site_pages  # noqa: E402  the repository is on the path from here on

project = "Plaudit"
author = "The Plaudit authors"
extensions = ["myst_nb"]
exclude_patterns = ["conf.py"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a test runs the notebook
smartquotes = False  # quotes in descriptions are code that readers copy
html_theme = "pydata_sphinx_theme"
html_sidebars = {"**": ["globaltoc.html"], "index": []}
html_title = "Plaudit"
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_center": [],  # the sidebar lists all pages
    "secondary_sidebar_items": ["page-toc"],
}

site_pages.write(HERE / "generated")


#: Links to pages outside of this directory, and the pages of the site that show them.
OUTSIDE = {
    "../CONTRIBUTING.md": "generated/contributing.md",
    "../README.md#quick-start": "generated/quick-start.md",
}


def setup(app: Sphinx) -> None:
    """Register the functions that change the sources."""
    app.connect("source-read", _rewrite_links)


def _rewrite_links(_app: Sphinx, _name: str, source: list[str]) -> None:
    for link, page in OUTSIDE.items():
        source[0] = source[0].replace(f"]({link})", f"]({page})")
