"""Usage of the tenant; ``client.usage``."""

from __future__ import annotations

from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse
from plaudit.models import Usage, UsageDayRead


class AsyncUsageLog:
    """Device seconds, stored bytes and scored tokens of the tenant per day."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def per_day(self, days: int = 30) -> list[UsageDayRead]:
        """Return the days with usage among the last ``days`` (1 to 366), newest first."""
        call = Call("GET", "/v1/usage", {"days": days})
        return parse(Usage, await self._transport.send(call)).data
