"""Render reports as self-contained HTML: no requests, no scripts, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

#: Larger pages lose their worst pairs first, then their plots.
MAX_BYTES = 2_000_000
#: Longest word that a cell shows in one line; longer ones, such as ids, may break anywhere.
MAX_WHOLE = 20
#: Content-Security-Policy: the page loads nothing, runs nothing and has no origin.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
#: OpenAPI description of the response.
HTML_ANSWER: dict[str, Any] = {
    "description": "The page. Its Content-Security-Policy forbids it to load or run anything.",
    "content": {"text/html": {"schema": {"type": "string"}}},
}
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


@dataclass
class Table:
    """A table; cells are texts, numbers, or None if there is no value."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> frozenset[int]:
        """Columns (from 0) of numbers only, which are aligned at the right."""
        columns = [[c for c in column if c is not None] for column in zip(*self.rows, strict=True)]
        return frozenset(
            place for place, cells in enumerate(columns) if cells and all(map(_is_number, cells))
        )


@dataclass
class Plot:
    """An SVG, which is embedded as an image, so that it cannot run scripts."""

    caption: str
    svg: str

    @property
    def base64(self) -> str:
        """The SVG in base64, for a data URL."""
        return base64.b64encode(self.svg.encode()).decode()


@dataclass
class Section:
    """A section of a page."""

    heading: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    omission: str | None = None
    """What ``render`` left out to keep the page small."""


@dataclass
class Page:
    """A report page."""

    title: str
    sections: list[Section]


def render(page: Page) -> str:
    """Return the HTML of a page, of at most ``MAX_BYTES`` in UTF-8.

    A section that had to lose pairs or plots says so.
    """
    html = _rendered(page)
    whole = [len(section.pairs) for section in page.sections]
    while len(html.encode()) > MAX_BYTES and any(section.pairs for section in page.sections):
        for section, count in zip(page.sections, whole, strict=True):
            if section.pairs:
                section.pairs = section.pairs[: len(section.pairs) // 2]
                shown = len(section.pairs)
                section.omission = f"{shown} of {count} pairs are shown, to keep this page small."
        html = _rendered(page)
    if len(html.encode()) > MAX_BYTES:
        for section in page.sections:
            if section.plots:
                section.plots = []
                section.omission = "The plots are left out, to keep this page small."
        html = _rendered(page)
    return html


def html_response(page: Page, filename: str) -> Response:
    """Return the page as a response with headers that forbid scripts, requests and caching."""
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


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _shown(cell: Any, *, is_right: bool) -> Markup:
    """Return a table cell; numbers are rounded, with the exact value in an attribute."""
    side = Markup(' class="right"') if is_right else ""
    if cell is None:
        return Markup("<td{}>–</td>").format(side)
    if _is_number(cell):
        text = f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
        return Markup('<td{} data-value="{}">{}</td>').format(side, repr(cell), text)
    text = ("yes" if cell else "no") if isinstance(cell, bool) else str(cell)
    if isinstance(cell, str) and len(cell) <= MAX_WHOLE and " " not in cell:
        side = Markup(' class="whole"')
    return Markup("<td{}>{}</td>").format(side, text)
