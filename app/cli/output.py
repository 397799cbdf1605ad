"""Output of commands: results on stdout, as tables or as JSON; everything else on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plaudit import Model, Page

Item = TypeVar("Item", bound=Model)

#: For progress and notes, which must not be mixed into a result that a script reads. Lines are not
#: wrapped, so that commands and ids can be copied.
notes = Console(stderr=True, highlight=False, soft_wrap=True)

LimitOption = Annotated[int, typer.Option(min=1, max=100, help="Maximum number of items.")]
AfterOption = Annotated[str | None, typer.Option(help="The value of 'next' on the previous page.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's response as JSON.")]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: Width of tables on a pipe, which has no width of its own; wide enough for ids.
_PIPE_COLUMNS = 200


def plain(value: object, style: str = "") -> Text:
    """Return untrusted text without markup and without control characters."""
    return Text(_CONTROL.sub("", str(value)), style)


def write_file(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk is reported without the name of the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def print_json(document: object) -> None:
    """Print a document as JSON on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_text(text: str) -> None:
    """Print untrusted text on stdout without control characters."""
    typer.echo(_CONTROL.sub("", text), nl=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as a table; None is shown as a dash."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(plain("–" if value is None else value) for value in row))
    _stdout().print(table)


def print_page(
    page: Page[Item],
    columns: Sequence[str],
    row: Callable[[Item], Sequence[object]],
    *,
    as_json: bool,
) -> None:
    """Print one page of a list, and on stderr how to get the next page."""
    if as_json:
        data = [item.to_dict() for item in page.data]
        has_more = page.next is not None
        print_json({"object": "list", "data": data, "has_more": has_more, "next": page.next})
        return
    print_table(columns, map(row, page.data))
    if page.next is not None:
        notes.print(plain(f"Show more with --after {page.next}", "dim"))


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print one line per field; fields without a value are omitted."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", [], {}):
            table.add_row(name, plain(value))
    _stdout().print(table)


def size(count: int) -> str:
    """Return a number of bytes as ``1.4 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def moment(at: datetime | None) -> str | None:
    """Return a time in UTC as ``2026-11-24 10:00:00Z``."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def time_span(seconds: float) -> str:
    """Return a duration as ``1 h 5 min``, ``3 min`` or ``40 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _stdout() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
