"""Sample of the first rows of an upload, from which its shape is recognised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from app.datasets.row_errors import FileError, Row, RowError
from app.datasets.shapes.forms import Form, form_of

MAX_ROWS = 64
#: Characters of text. The limit bounds memory, which holds the rows until the shape is known.
MAX_CHARACTERS = 2 << 20


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return the value of a column; ``a.b`` is the key ``b`` of an object in the column ``a``."""
    if path in row or "." not in path:
        return row.get(path)
    root, _, rest = path.partition(".")
    nested = row.get(root)
    return value_at(nested, rest) if isinstance(nested, dict) else None


def rewritten(row: Mapping[str, Any], used: Iterable[str], **made: Any) -> dict[str, Any]:
    """Return a row with the columns ``made`` in place of those that were used for them.

    Raises:
        RowError: the row has text in a column of the same name.
    """
    used = set(used)
    for name in made.keys() - used:
        if row.get(name):
            raise RowError(
                "two_values",
                f"this row has {name} too, unlike other rows of this shape",
                f"leave it out, or set ignore_columns={name}",
                column=name,
            )
    return {name: value for name, value in row.items() if name not in used} | made


@dataclass(frozen=True)
class Sample:
    """Readable rows from the beginning of an upload, with their line numbers."""

    rows: tuple[tuple[int, dict[str, Any]], ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns of the rows, in the order of appearance."""
        return tuple(dict.fromkeys(chain.from_iterable(row for _, row in self.rows)))

    def has(self, path: str) -> bool:
        """Return whether any row has the column; its value may be null."""
        if path in self.columns or "." not in path:
            return path in self.columns
        return any(True for _ in self.values(path))

    def values(self, path: str) -> Iterator[Any]:
        """Yield the values of a column that are not null."""
        for _, row in self.rows:
            if (value := value_at(row, path)) is not None:
                yield value

    def with_all(self, paths: tuple[str, ...]) -> Sample:
        """Return the rows in which none of the columns is null, or all rows if there are none."""
        rows = tuple(
            (line, row)
            for line, row in self.rows
            if all(value_at(row, path) is not None for path in paths)
        )
        return Sample(rows) if rows else self

    def share(self, path: str | None) -> float:
        """Return the share of rows (0 to 1) in which the column is not null."""
        return 0.0 if path is None else sum(1 for _ in self.values(path)) / len(self.rows)

    def forms(self, path: str) -> set[Form]:
        """Return the forms of the values of a column that are not null."""
        return {form_of(value) for value in self.values(path)}


def take_sample(rows: Iterable[Row]) -> tuple[Sample, Iterator[Row]]:
    """Return the first readable rows, and an iterator over all rows from the first one."""
    source = iter(rows)
    held: list[Row] = []
    readable: list[tuple[int, dict[str, Any]]] = []
    size = 0
    try:
        for line, row in source:
            held.append((line, row))
            if isinstance(row, dict):
                readable.append((line, row))
                size += _characters(row)
            if len(held) >= MAX_ROWS or size >= MAX_CHARACTERS:
                break
    except FileError as error:
        if not readable:
            raise
        source = _raising(error)
    return Sample(tuple(readable)), chain(held, source)


def _raising(error: FileError) -> Iterator[Row]:
    """Return an iterator that raises the error on its first step."""
    raise error
    yield


def _characters(value: Any) -> int:
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        count += 64
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return count
