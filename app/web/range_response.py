"""Responses with immutable content: ETag, single Range, If-Range, HEAD, 304 and 416 (RFC 9110)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import Request, Response

from app.core.errors import RangeError
from app.web import etags
from app.web.http_semantics import is_head
from app.web.problem_details import problem_response
from app.web.streaming import LimitedStreamingResponse

#: Long lists of ranges have made parsers quadratic. Resuming a download needs one range.
MAX_RANGE_HEADER_LENGTH = 128
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))", re.ASCII)


@dataclass(frozen=True)
class Content:
    """Bytes that never change; ``read(start, stop)`` yields those in [start, stop).

    If their ``sha256`` is unknown, ``version`` is another text that changes with the bytes.
    """

    filename: str
    media_type: str
    sha256: str | None
    size: int
    read: Callable[[int, int], Iterator[bytes]]
    version: str = ""

    @property
    def etag(self) -> str:
        """A strong ETag: equal tags mean equal bytes."""
        return f'"{self.version}"' if self.sha256 is None else f'"sha256-{self.sha256}"'


def content_response(request: Request, content: Content) -> Response:
    """Return the content, the requested range of it, or a 304 or 416 response.

    Holds no database connection while the client reads: ``content.read`` takes one per chunk.
    """
    headers = {
        "ETag": content.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": _disposition(content.filename),
        "X-Content-Type-Options": "nosniff",
    }
    if content.sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(content.sha256)).decode()
        headers["Repr-Digest"] = f"sha-256=:{digest}:"
    if etags.is_match(request.headers.get("if-none-match"), content.etag):
        return Response(status_code=304, headers=headers)
    range_header = request.headers.get("range")
    requested = None
    # RFC 9110 §13.1.5: ignore the range if it was computed for other bytes.
    if range_header and request.headers.get("if-range", content.etag) == content.etag:
        requested = parse_range(range_header, content.size)
    if requested == ():
        return problem_response(
            request,
            RangeError(f"The content has {content.size} bytes.", hint="Request a range inside it."),
            headers={"Content-Range": f"bytes */{content.size}"},
        )
    start, stop = requested or (0, content.size)
    headers["Content-Length"] = str(stop - start)
    if requested:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    status = 206 if requested else 200
    if is_head(request.scope):
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    return LimitedStreamingResponse(
        request, content.read(start, stop), status_code=status, headers=headers,
        media_type=content.media_type,
    )  # fmt: skip


def parse_range(header: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """Return the range as ``(start, stop)``, stop excluded.

    Returns ``()`` if the range cannot be satisfied, and None if the header must be ignored: RFC
    9110 §14.2 lets a server ignore anything but a single valid byte range.
    """
    match = _RANGE.fullmatch(header.strip()) if len(header) <= MAX_RANGE_HEADER_LENGTH else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(size - int(suffix), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    return (start, stop) if start < stop else ()


def _disposition(filename: str) -> str:
    """Format Content-Disposition (RFC 6266) without any character that could end the header."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", filename)[:150]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename[:150], safe='')}"
