"""Immutable bytes over HTTP: ETag, one Range, If-Range, HEAD, 304, 416 (RFC 9110)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import Request, Response

from app.core.errors import ServiceError
from app.web.problem_details import problem_response
from app.web.streaming import LimitedStreamingResponse

#: Many ranges in one header made parsers quadratic; one range is all that anybody resumes with.
MAX_RANGE_HEADER = 128
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))", re.ASCII)


class RangeError(ServiceError):
    """The range lies outside of the content."""

    code = "range_not_satisfiable"
    status = 416
    title = "Range not satisfiable"
    next_step = "Ask for bytes inside of the content; HEAD tells how many there are."


@dataclass(frozen=True)
class Content:
    """Bytes that never change; ``read(start, stop)`` gives a part of them, stop excluded."""

    filename: str
    media_type: str
    sha256: str
    size: int
    read: Callable[[int, int], Iterator[bytes]]

    @property
    def etag(self) -> str:
        """Strong: the same tag means the same bytes."""
        return f'"sha256-{self.sha256}"'


def serve(request: Request, content: Content) -> Response:
    """The whole, a part of it, or the reason why not. Holds no database connection while the
    client reads: ``content.read`` takes one per chunk."""
    headers = {
        "ETag": content.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(content.sha256)).decode()}:",
        "Content-Disposition": _disposition(content.filename),
        "X-Content-Type-Options": "nosniff",
    }
    if _names(request.headers.get("if-none-match"), content.etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    span = None
    # A range made for other bytes than these is no range at all.
    if wanted and request.headers.get("if-range", content.etag) == content.etag:
        span = parse_range(wanted, content.size)
    if span == ():
        return problem_response(
            request,
            RangeError(
                f"The content has {content.size} bytes.", hint="Ask for bytes inside of them."
            ),
            headers={"Content-Range": f"bytes */{content.size}"},
        )
    start, stop = span or (0, content.size)
    headers["Content-Length"] = str(stop - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    return LimitedStreamingResponse(
        request, content.read(start, stop), status_code=status, headers=headers,
        media_type=content.media_type,
    )  # fmt: skip


def parse_range(header: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """``(start, stop)`` with stop excluded; ``()`` cannot be satisfied; None is to be ignored.

    RFC 9110 §14.2: what is no single valid byte range is ignored, never refused.
    """
    match = _RANGE.fullmatch(header.strip()) if len(header) <= MAX_RANGE_HEADER else None
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


def _names(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _disposition(filename: str) -> str:
    """RFC 6266; names of our own making, but nothing that ends a header gets through."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", filename)[:150]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename[:150], safe='')}"
