"""``/v1/usage``: what the tenant used, per day."""

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
    """What was used on one day."""

    object: Literal["usage_day"] = "usage_day"
    day: date = Field(description="In UTC.")
    device_seconds: float = Field(
        description="Seconds that jobs held a slot of a worker, each attempt on the day it ended."
    )
    stored_bytes: int = Field(description="At the end of the day, or a few minutes ago.")
    scored_tokens: int

    @classmethod
    def of(cls, row: UsageDay) -> Self:
        """From its row."""
        return cls(
            day=_EPOCH + timedelta(days=row.day),
            device_seconds=row.device_ms / 1000,
            stored_bytes=row.stored_bytes,
            scored_tokens=row.scored_tokens,
        )


class Usage(BaseModel):
    """The days on which something was used, newest first."""

    object: Literal["list"] = "list"
    data: list[UsageDayRead]


@router.get("")
def list_usage(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="How many days back.")] = 30,
) -> Usage:
    """Device time, stored bytes and scored tokens of the tenant, per day."""
    with transaction(engine) as session:
        rows = service.list_days(session, principal.tenant_id, days)
    return Usage(data=[UsageDayRead.of(row) for row in rows])
