"""Route of /v1/usage: the usage of a tenant per day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.core.database import transaction
from app.models import UsageDay
from app.usage import service
from app.web.dependencies import ReadEngineDep, RequireJobsRead

router = APIRouter(prefix="/v1/usage", tags=["operations"])

MAX_DAYS = 366
_EPOCH = date(1970, 1, 1)


class UsageDayRead(BaseModel):
    """Usage of a tenant on one day."""

    object: Literal["usage_day"] = "usage_day"
    day: date = Field(description="Date in UTC.")
    device_seconds: float = Field(
        description="Seconds for which jobs occupied a slot of a worker. An attempt counts on the "
        "day on which it ended."
    )
    stored_bytes: int = Field(
        description="Bytes stored at the end of the day; for today, a few minutes ago."
    )
    scored_tokens: int

    @classmethod
    def of(cls, row: UsageDay) -> Self:
        """Build the schema from the database row."""
        return cls(
            day=_EPOCH + timedelta(days=row.day),
            device_seconds=row.device_ms / 1000,
            stored_bytes=row.stored_bytes,
            scored_tokens=row.scored_tokens,
        )


class Usage(BaseModel):
    """The days with any usage, newest first."""

    object: Literal["list"] = "list"
    data: list[UsageDayRead]


@router.get("")
def list_usage(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    days: Annotated[
        int, Query(ge=1, le=MAX_DAYS, description="Number of days, including today.")
    ] = 30,
) -> Usage:
    """List device time, stored bytes and scored tokens of the tenant per day."""
    with transaction(engine) as session:
        rows = service.list_days(session, principal.tenant_id, days)
    return Usage(data=[UsageDayRead.of(row) for row in rows])
