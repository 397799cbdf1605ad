"""Reports as one self-contained HTML page: no request, no script, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

#: Larger pages lose the texts of their worst pairs first, then plots.
MAX_BYTES = 2_000_000
#: A policy of the page's own: nothing is loaded, nothing runs, and the page has no origin.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
#: How routes document the page.
HTML_ANSWER: dict[str, Any] = {
    "description": "The page; its Content-Security-Policy lets it load and run nothing.",
    "content": {"text/html": {"schema": {"type": "string"}}},
}
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


@dataclass
class Table:
    """A table; cells are texts, numbers, or None for what does not apply."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Plot:
    """An SVG. It is embedded as an image, so that nothing in it could run."""

    caption: str
    svg: str

    @property
    def base64(self) -> str:
        """The content of a data URL."""
        return base64.b64encode(self.svg.encode()).decode()


@dataclass
class Section:
    """A part of the page."""

    heading: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Page:
    """A report."""

    title: str
    sections: list[Section]


def render(page: Page) -> str:
    """Return the page, at most ``MAX_BYTES`` of UTF-8."""
    html = _rendered(page)
    while len(html.encode()) > MAX_BYTES and any(section.pairs for section in page.sections):
        for section in page.sections:
            section.pairs = section.pairs[: len(section.pairs) // 2]
        html = _rendered(page)
    if len(html.encode()) > MAX_BYTES:
        for section in page.sections:
            section.plots = []
        html = _rendered(page)
    return html


def html_response(page: Page, filename: str) -> Response:
    """Return the page with the headers that confine it."""
    return Response(
        render(page),
        media_type="text/html",
        headers={
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f'inline; filename="{filename}"',
            "Cache-Control": "private, no-store",
        },
    )


def key_values(caption: str, values: Mapping[str, Any]) -> Table:
    """Return a table of names and values."""
    return Table(caption, ("", ""), [(name, value) for name, value in values.items()])


def _rendered(page: Page) -> str:
    return _TEMPLATES.get_template("report.html.j2").render(page=page, shown=_shown)


def _shown(cell: Any) -> Markup:
    """Return a cell; a number keeps its exact value beside the rounded one."""
    if cell is None:
        return Markup("<td>–</td>")
    if isinstance(cell, bool):
        return Markup("<td>{}</td>").format("yes" if cell else "no")
    if isinstance(cell, int | float):
        text = f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
        return Markup('<td data-value="{}">{}</td>').format(repr(cell), text)
    return Markup("<td>{}</td>").format(str(cell))
