"""Keyset pages of lists, and timestamps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, PlainSerializer, WithJsonSchema

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
#: The end of the year 9999, the last moment that RFC 3339 can express.
LAST_MS = 253_402_300_799_999


def rfc3339(epoch_ms: int) -> str:
    """Format epoch milliseconds as RFC 3339 in UTC, such as ``2026-11-24T10:00:00.000Z``."""
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{epoch_ms % 1000:03d}Z"


#: Epoch milliseconds in Python, RFC 3339 in JSON.
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
    """One page of a list. Pass `next` as `after` to get the following page."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next: str | None

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        limit: int,
        to_item: Callable[[Row], Item],
        cursor: Callable[[Row], str],
    ) -> Self:
        """Build a page from up to ``limit + 1`` rows; an extra row means that more pages exist."""
        kept = rows[:limit]
        has_more = len(rows) > limit
        return cls(
            data=[to_item(row) for row in kept],
            has_more=has_more,
            next=cursor(kept[-1]) if has_more else None,
        )


def by_id(row: _HasId) -> str:
    """Return the cursor of a list that is ordered by id."""
    return row.id
