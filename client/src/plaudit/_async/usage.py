"""What the tenant used; ``client.usage``."""

from __future__ import annotations

from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse
from plaudit.models import Usage, UsageDayRead


class AsyncUsageLog:
    """Device time, stored bytes and scored tokens, per day."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def per_day(self, days: int = 30) -> list[UsageDayRead]:
        """The days with any usage, newest first, of the last ``days`` (1 to 366)."""
        call = Call("GET", "/v1/usage", {"days": days})
        return parse(Usage, await self._transport.send(call)).data
