"""Configuration of Sphinx: builds README, the other top pages and ``docs/`` into one site.

Pages are plain Markdown, as any forge shows it. The order of the site is that of the links in
``docs/index.md``; a page that is not linked there is a warning, and warnings are errors.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "unionmount"
copyright = "the authors of unionmount"  # noqa: A001 - Sphinx calls it so
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "bench/README.md"]
exclude_patterns = [".*", "build", "dist", "src", "tests", "csrc"]
myst_heading_anchors = 4  # the anchors of headings, as forges make them
highlight_language = "none"
html_theme = "furo"
html_title = "unionmount"
html_copy_source = False
html_show_sphinx = False
nitpicky = True

_SECTION = re.compile(r"^## (.+)$")
_LINK = re.compile(r"^- \[([^]]+)\]\(([^)]+)\.md\)")


def contents(index: str) -> str:
    """The links of the index once more, as the lists that Sphinx makes its navigation of."""
    lines: list[str] = []
    for line in index.splitlines():
        if section := _SECTION.match(line):
            lines += ["```" if lines else "", "```{toctree}", ":hidden:", f":caption: {section[1]}"]
        elif link := _LINK.match(line):
            lines.append(f"{link[1]} <{link[2]}>")
    return "\n".join(["", *lines, "```", "```{toctree}", ":hidden:", "../README", "```", ""])


def _add_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += contents(source[0])


def _write_start_page(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="ascii")


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _write_start_page)
