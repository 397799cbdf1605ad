"""Decoder of server-sent events (HTML Living Standard, 9.2), for the fields the service uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Not str.splitlines: it also splits at characters that JSON strings may contain unescaped.
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream."""

    type: str
    data: str
    id: str | None


class EventDecoder:
    """Decodes the bytes of a stream into events."""

    def __init__(self) -> None:
        self._rest = b""
        self._type = ""
        self._data: list[str] = []
        self._id: str | None = None
        #: Seconds until a reconnect, from the stream's ``retry`` field; None before it was sent.
        self.retry_seconds: float | None = None

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """Add bytes, and yield the events that they complete."""
        text = self._rest + chunk
        # A carriage return at the end may be the first half of a line end.
        held = text[-1:] if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text.removesuffix(held) if held else text)
        self._rest = rest + held
        for line in lines:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
            case "retry" if value.isdecimal():
                self.retry_seconds = int(value) / 1000
        return None

    def _dispatch(self) -> ServerEvent | None:
        kind, data, found = self._type, self._data, self._id
        self._type, self._data, self._id = "", [], None
        if not data:
            return None
        return ServerEvent(kind or "message", "\n".join(data), found)
