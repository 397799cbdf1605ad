"""What the answers of every room are made of: time stamps and keyset pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, PlainSerializer, WithJsonSchema

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
#: The end of the year 9999, the last moment that RFC 3339 can name.
LAST_MS = 253_402_300_799_999


def rfc3339(epoch_ms: int) -> str:
    """``2026-11-24T10:00:00.000Z``."""
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{epoch_ms % 1000:03d}Z"


#: Epoch milliseconds inside, RFC 3339 outside.
Timestamp = Annotated[
    int,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-11-24T10:00:00.000Z"]}
    ),
]


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Row = TypeVar("Row")
Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Part of a list; ``next`` is the ``after`` of the following page."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next: str | None

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        limit: int,
        show: Callable[[Row], Item],
        cursor: Callable[[Row], str],
    ) -> Self:
        """A page from ``limit + 1`` rows, the last of which only tells that there is more."""
        kept = rows[:limit]
        has_more = len(rows) > limit
        return cls(
            data=[show(row) for row in kept],
            has_more=has_more,
            next=cursor(kept[-1]) if has_more else None,
        )


def by_id(row: _HasId) -> str:
    """The cursor of lists that are ordered by id."""
    return row.id
