"""JSON lines → rows.

Stricter than ``json.loads``: keys given twice, NaN, Infinity and deep nesting are refused. A fast
parser reads the lines; whatever it stumbles over goes to a strict one, which says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NoReturn

import orjson
from pydantic_core import from_json

from app.datasets.byte_streams import MAX_LINE_BYTES
from app.datasets.file_types import JSONL, check_first_line
from app.datasets.row_errors import Row, RowError, kind_of, shown

MAX_NESTING = 32
_BOM = b"\xef\xbb\xbf"
_HINT = "each line must be one whole JSON object"


def jsonl_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Numbered rows, from 1; blank lines are passed over.

    Raises:
        FileError: the first line is that of another kind of file.
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
    """One line as an object.

    Raises:
        RowError: the line is too long, not UTF-8, not JSON in the strict sense, or no object.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RowError(
            "line_too_long",
            f"the line is longer than {MAX_LINE_BYTES} bytes",
            "shorten it; a pair is far longer than any model reads",
        )
    value = _quick_value(line)
    if value is None:
        value = json_value(utf8(line))
    if isinstance(value, dict):
        return value
    found = shown(value) if isinstance(value, str) else kind_of(value)
    raise RowError("not_an_object", f"found {found}", _HINT)


def utf8(line: bytes) -> str:
    """The line's text.

    Raises:
        RowError: it is not UTF-8; ``offset`` counts bytes.
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
    """The text's JSON value.

    Raises:
        RowError: no JSON (``offset`` says where), a key twice in one object, NaN or Infinity, or
            nested deeper than 32.
    """
    try:
        value = _strict.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(
            "invalid_json",
            f"no JSON at character {error.pos + 1}: {_FAULTS.get(error.msg, error.msg)}",
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


#: The messages of Python's parser in other words.
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
    "Invalid \\escape": "no escape sequence of JSON",
    "Invalid \\uXXXX escape": "\\u needs four hex digits",
}


def _quick_value(line: bytes) -> dict[str, Any] | None:
    """The object that is sure to be in a line; None where only the strict parser can tell.

    The fast parser keeps the last of two equal keys, and the length of the line gives that away: a
    JSON writer without spaces writes a value in as many bytes as orjson does, and one with a space
    after each comma and colon in one more for each of these. A line of any other length, such as
    one with a key twice, with escapes that are not needed or with other spaces, is not sure.
    """
    try:
        value = from_json(line, allow_inf_nan=False, cache_strings="keys")
        length = len(orjson.dumps(value))
    except (ValueError, TypeError):
        return None
    if type(value) is not dict or not value:
        return None
    separators, depth = _measure(value)
    if depth > MAX_NESTING:
        return None
    spaces = len(line) - length
    if spaces == 0 or (spaces == separators and line.startswith(_spaced_start(next(iter(value))))):
        return value
    return None


def _measure(value: Any) -> tuple[int, int]:
    """Commas and colons of a JSON value, and how deep it is nested (at most MAX_NESTING + 1)."""
    separators = depth = 0
    level = [value]
    while level and depth <= MAX_NESTING:
        depth += 1
        below: list[Any] = []
        for item in level:
            size = len(item)
            if type(item) is dict:
                separators += 2 * size - (size > 0)
                item = item.values()
            else:
                separators += size - (size > 0)
            for child in item:
                if type(child) is dict or type(child) is list:
                    below.append(child)
        level = below
    return separators, depth


@lru_cache(maxsize=64)
def _spaced_start(key: str) -> bytes:
    """How a line begins whose first key is this, from a writer with spaces."""
    return b"{" + orjson.dumps(key) + b": "


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
        f"the key {shown(name)} is there twice",
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
    """Where the first NaN or Infinity is. Parses again, so only for lines already refused."""
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
