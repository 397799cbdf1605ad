"""Read rows of JSON lines.

Stricter than ``json.loads``: duplicate keys, NaN, Infinity and deep nesting are rejected. A fast
parser reads the lines. Lines that it cannot read for sure go to a strict parser, which finds the
error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import jiter

from app.datasets.byte_streams import MAX_LINE_BYTES
from app.datasets.file_types import JSONL, check_first_line
from app.datasets.row_errors import Row, RowError, kind_of, shown

MAX_NESTING = 32
_BOM = b"\xef\xbb\xbf"
_HINT = "each line must be one whole JSON object"


def jsonl_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Yield the rows with their line numbers, which start at 1; skip blank lines.

    Raises:
        FileError: the first line belongs to another file type.
    """
    is_first = True
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line or line.isspace():
            continue
        try:
            row: dict[str, Any] | RowError = json_row(line)
        except RowError as error:
            if is_first:
                check_first_line(line, JSONL)
            row = error
        is_first = False
        yield number, row


def json_row(line: bytes) -> dict[str, Any]:
    """Decode one line, which must hold a JSON object.

    Raises:
        RowError: the line is too long, not UTF-8, not strict JSON, or not an object.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RowError(
            "line_too_long",
            f"the line is longer than {MAX_LINE_BYTES} bytes",
            "shorten it; no model reads a pair of this length",
        )
    value = _quick_value(line)
    if value is None:
        value = json_value(utf8(line))
    if isinstance(value, dict):
        return value
    found = shown(value) if isinstance(value, str) else kind_of(value)
    raise RowError("not_an_object", f"found {found}", _HINT)


def utf8(line: bytes) -> str:
    """Decode a line as UTF-8.

    Raises:
        RowError: the line is not UTF-8; ``offset`` counts bytes from 1.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            "invalid_utf8",
            f"byte {error.start + 1} of the line is not UTF-8 (0x{line[error.start]:02x})",
            "save the file as UTF-8",
            offset=error.start + 1,
        ) from None


def json_value(text: str) -> Any:
    """Decode a JSON value.

    Raises:
        RowError: the text is not JSON (``offset`` is the character, from 1), has a duplicate key,
            NaN or Infinity, or is nested deeper than 32 levels.
    """
    try:
        value = _strict.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(
            "invalid_json",
            f"not JSON at character {error.pos + 1}: {_FAULTS.get(error.msg, error.msg)}",
            _HINT,
            offset=error.pos + 1,
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except _NonFiniteError as error:
        raise RowError(
            "non_finite_number",
            f"{error} is not a JSON number",
            "write a finite number, or null for none",
            column=_path_of_constant(text),
        ) from None
    except ValueError:  # the interpreter's own limit on the digits of an integer
        raise RowError("invalid_json", "a number has too many digits", "shorten it") from None
    # Counting brackets is a hundred times cheaper than walking the value.
    if text.count("[") + text.count("{") > MAX_NESTING and _depth(value) > MAX_NESTING:
        raise _too_deep()
    return value


#: Messages of Python's parser, and their replacements.
_FAULTS = {
    "Expecting value": "a value is missing",
    "Extra data": "the object has ended, and more text follows",
    "Expecting property name enclosed in double quotes": "a name in double quotes is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Illegal trailing comma before end of object": "a comma stands before the closing bracket",
    "Illegal trailing comma before end of array": "a comma stands before the closing bracket",
    "Unterminated string starting at": "a string begins here and does not end",
    "Invalid control character at": "a control character in a string must be escaped",
    "Invalid \\escape": "JSON has no such escape sequence",
    "Invalid \\uXXXX escape": "\\u needs four hex digits",
}


def _quick_value(line: bytes) -> dict[str, Any] | None:
    """Decode a line with the fast parser; return None if only the strict parser can decide."""
    try:
        value = jiter.from_json(
            line, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True
        )
    except ValueError:
        return None
    is_object = type(value) is dict
    return value if is_object and (_is_flat(value) or _depth(value) <= MAX_NESTING) else None


def _is_flat(row: dict[str, Any]) -> bool:
    """Return whether a row holds only texts, numbers, and lists of texts or of flat objects."""
    for column in row.values():
        if type(column) is list:
            for item in column:
                if type(item) is dict:
                    for each in item.values():
                        if type(each) is dict or type(each) is list:
                            return False
                elif type(item) is list:
                    return False
        elif type(column) is dict:
            return False
    return True


class _NonFiniteError(Exception):
    pass


class _Constant:
    def __init__(self, name: str) -> None:
        self.name = name


def _refuse_constant(name: str) -> NoReturn:
    raise _NonFiniteError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    raise RowError(
        "duplicate_key",
        f"the key {shown(name)} appears twice",
        "keep one of them",
        column=shown(name)[1:-1],
    )


def _too_deep() -> RowError:
    return RowError(
        "too_deep",
        f"the line is nested deeper than {MAX_NESTING} levels",
        "flatten it, or leave the nested column out",
    )


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        level = [item for item in level if isinstance(item, dict | list)]
        depth += bool(level)
        level = [
            child for item in level for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _path_of_constant(text: str) -> str | None:
    """Return the path of the first NaN or Infinity. Parses again, so only for rejected lines."""
    try:
        return _path(json.loads(text, parse_constant=_Constant), "")
    except (ValueError, RecursionError):
        return None


def _path(value: Any, path: str) -> str | None:
    if isinstance(value, _Constant):
        return path or None
    children: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        dot = "." if path else ""
        children = ((f"{path}{dot}{shown(key)[1:-1]}", item) for key, item in value.items())
    if isinstance(value, list):
        children = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    return next((found for at, item in children if (found := _path(item, at))), None)


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
