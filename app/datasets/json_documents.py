"""Stream the rows of a JSON document: an array of objects, or an object with such an array."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from app.datasets.byte_streams import MAX_LINE_BYTES
from app.datasets.json_rows import MAX_NESTING, json_row
from app.datasets.row_errors import FileError, Row, RowError, shown

#: Keys that hold the rows of a document.
ROW_KEYS = (
    "data", "rows", "examples", "instances", "items", "records", "samples", "entries", "pairs",
    "preferences", "train", "test", "validation", "dev",
)  # fmt: skip
#: An object whose first key holds the rows.
WRAPPED = re.compile(rb'\{\s*"(%s)"\s*:\s*\[(?=\s*[\{\]])' % "|".join(ROW_KEYS).encode())
_SPACE = re.compile(r"[ \t\r\n]*")
_HINT = "correct the document, or write one object per line (JSON lines)"


def json_rows(chunks: Iterable[bytes]) -> Iterator[Row]:
    """Yield the elements of the array with their numbers, which start at 1.

    Raises:
        FileError: the document is not JSON, or holds something besides the array.
    """
    text = _Text(chunks)
    opening = text.next_character()
    if opening == "{":
        text.skip_to("[")
    text.expect("[")
    number = 0
    if text.next_character() != "]":
        while True:
            number += 1
            yield number, _row(text.element(number))
            if text.next_character() != ",":
                break
            text.expect(",")
    text.expect("]", after=number)
    if opening == "{":
        if text.next_character() == ",":
            raise FileError(
                "invalid_json",
                "the document has another key after the list of its rows",
                "upload the list alone, and other lists as further uploads",
                line=max(number, 1),
            )
        text.expect("}", after=number)
    if rest := text.next_character():
        raise _broken(number, f"found {shown(rest)} after the end of the document")


def _row(element: str) -> dict[str, Any] | RowError:
    try:
        return json_row(element.encode("utf-8", "surrogatepass"))
    except RowError as error:
        return error


class _Text:
    """Text of the document; holds only the part that is needed at a time."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._find_end = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._is_over = False

    def next_character(self) -> str:
        """Return the next character that is not white space, or "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def expect(self, character: str, after: int = 0) -> None:
        """Skip the next character.

        Raises:
            FileError: the next character is not ``character``.
        """
        if (found := self.next_character()) != character:
            what = f"found {shown(found)}" if found else "the document ends"
            raise _broken(after, f"{what} where {shown(character)} should be")
        self._at += 1

    def skip_to(self, character: str) -> None:
        """Advance to a character that is known to follow shortly."""
        while (at := self._text.find(character, self._at)) < 0 and self._read():
            pass
        self._at = max(at, self._at)

    def element(self, number: int) -> str:
        """Return the text of the next value.

        Raises:
            FileError: the value is not JSON, or longer than ``MAX_LINE_BYTES``.
        """
        self.next_character()
        while True:
            end, problem = self._end_of_value(number)
            # A number at the end of the text read so far may continue in the next chunk.
            if not problem and (end < len(self._text) or self._is_over):
                element = self._text[self._at : end]
                self._at = end
                return element
            if end - self._at > MAX_LINE_BYTES:
                limit = f"the element has no end within {MAX_LINE_BYTES} characters"
                raise _broken(number, f"{problem}; {limit}")
            if not self._read() and problem:
                raise _broken(number, problem)

    def _end_of_value(self, number: int) -> tuple[int, str]:
        """Return the end of the value, or the end of the text and why the value does not end."""
        try:
            return self._find_end(self._text, self._at)[1], ""
        except json.JSONDecodeError as error:
            return len(self._text), f"{error.msg}, {error.pos - self._at} characters into it"
        except RecursionError:
            raise _broken(number, f"nested deeper than {MAX_NESTING} levels") from None
        except ValueError:
            raise _broken(number, "a number has too many digits") from None

    def _read(self) -> bool:
        """Read the next chunk; return False at the end of the document."""
        if self._is_over:
            return False
        chunk = next(self._chunks, None)
        try:
            more = self._decode(chunk or b"", chunk is None)
        except UnicodeDecodeError as error:
            raise FileError(
                "invalid_utf8",
                f"byte 0x{error.object[error.start]:02x} is not UTF-8",
                "save the file as UTF-8",
            ) from None
        self._is_over = chunk is None
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._is_over


def _broken(number: int, problem: str) -> FileError:
    return FileError(
        "invalid_json", f"row {number} of the JSON array: {problem}", _HINT, line=max(number, 1)
    )
