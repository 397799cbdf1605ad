"""A light HTTP client for benchmarks: requests are prepared bytes, connections are reused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Self

CONNECTIONS = 32


def request(
    path: str,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
) -> bytes:
    """Return the bytes of a GET request, or of a POST request if there is a body."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection:
    """A persistent connection that sends one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))

    async def send(self, raw: bytes) -> int:
        """Send a request, read the whole response, and return its status."""
        self._writer.write(raw)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        _, found, rest = head.partition(b"content-length: ")
        left = int(rest[: rest.index(b"\r")]) if found and status != 304 else 0
        while left:
            left -= len(await self._reader.read(min(left, 1 << 20)))
        return status

    def close(self) -> None:
        self._writer.close()


async def throughput(port: int, raw: bytes, seconds: float) -> float:
    """Return the requests per second that CONNECTIONS connections achieve together."""
    ends_at = time.perf_counter() + seconds

    async def send_until_end() -> int:
        connection = await Connection.open(port)
        count = 0
        while time.perf_counter() < ends_at:
            assert await connection.send(raw) in (200, 304)
            count += 1
        connection.close()
        return count

    start = time.perf_counter()
    counts = await asyncio.gather(*(send_until_end() for _ in range(CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - start)
