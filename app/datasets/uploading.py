"""Turn a request's body into an iterator of chunks, which a worker thread pulls one at a time.

Pulling gives backpressure: the next chunk is read from the client after the last one is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import anyio
from anyio import from_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from app.core.errors import (
    InvalidError,
    QuotaError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
    UnsupportedMediaError,
    UploadStalledError,
)
from app.core.settings import Settings
from app.storage.free_space import StorageFullError

#: Bound of the route; the stream itself is limited by ``settings.max_upload_bytes``.
NO_BOUND = 1 << 50
#: Errors of routes whose body streams into the storage.
STREAM_ERRORS = (
    TooLargeError,
    UnsupportedMediaError,
    UploadStalledError,
    QuotaError,
    RateLimitedError,
    StorageFullError,
    UnavailableError,
)

#: Seconds without data after which an upload is aborted, so that it does not occupy a thread.
STALL_SECONDS = 60
_MAX_PART_HEADERS = 16 << 10


class BadMultipartError(InvalidError):
    """The body is not one multipart part."""

    code = "invalid_multipart"
    title = "The multipart body is not valid"
    next_step = "Send exactly one file part, or the bytes alone with their content type."


def body_schema(types: Collection[str]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is a file of one of these content types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}
    return {"requestBody": {"required": True, "content": content}}


def check_announced_size(request: Request, settings: Settings) -> None:
    """Reject a body before its first byte if its Content-Length is too large.

    Raises:
        TooLargeError
    """
    if int(request.headers.get("content-length") or 0) > settings.max_upload_bytes:
        raise TooLargeError(f"The file is larger than {settings.max_upload_bytes} bytes.")


def body_chunks(request: Request) -> Iterator[bytes]:
    """Yield the body of a request; iterate in a worker thread.

    Raises:
        UploadStalledError: the client sent nothing for STALL_SECONDS.
        ClientDisconnect: the client closed the connection.
    """
    stream = request.stream()

    async def pull() -> bytes | None:
        with anyio.move_on_after(STALL_SECONDS):
            return await anext(stream, None)
        raise UploadStalledError(
            f"The client sent nothing for {STALL_SECONDS} seconds; nothing was stored.",
            hint="Upload the file again.",
        )

    while (chunk := from_thread.run(pull)) is not None:
        if chunk:
            yield chunk


class SinglePart:
    """The single file of a multipart body, read as a stream; its headers are read at creation."""

    def __init__(self, content_type: str, chunks: Iterator[bytes]) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary or len(boundary) > 70:
            raise BadMultipartError("The content type has no valid boundary.")
        self._chunks = chunks
        self._data: list[bytes] = []
        self._headers: dict[str, bytes] = {}
        self._field, self._value = b"", b""
        self._parts = 0
        self._has_headers = self._is_over = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._end,
            },
        )
        seen = 0
        while not self._has_headers:
            seen += self._feed()
            if seen > _MAX_PART_HEADERS and not self._has_headers:
                raise BadMultipartError("The part's headers are too long.")
        _, disposition = parse_options_header(self._headers.get("content-disposition", b""))
        self.filename = disposition.get(b"filename", b"").decode("utf-8", "replace")
        self.content_type = self._headers.get("content-type", b"").decode("latin-1")

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from self._data
            self._data.clear()
            if self._is_over:
                return
            self._feed()

    def _feed(self) -> int:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise BadMultipartError("The body ends before its last boundary.")
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise BadMultipartError(f"The body is not a multipart form: {error}.") from error
        return len(chunk)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > 1:
            raise BadMultipartError(
                "The form has more than one part.",
                hint="Send the file alone; name and format are query parameters.",
            )

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value
        self._field, self._value = b"", b""

    def _on_headers(self) -> None:
        self._has_headers = True

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        self._is_over = True
