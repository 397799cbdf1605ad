# Generated from ../_async/usage.py by `make client-models`. Do not edit.
"""Usage of the tenant; ``client.usage``."""

from __future__ import annotations

from plaudit._calls import Call, parse
from plaudit._sync.transport import Transport
from plaudit.models import Usage, UsageDayRead


class UsageLog:
    """Device seconds, stored bytes and scored tokens of the tenant per day."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def per_day(self, days: int = 30) -> list[UsageDayRead]:
        """Return the days with usage among the last ``days`` (1 to 366), newest first."""
        call = Call("GET", "/v1/usage", {"days": days})
        return parse(Usage, self._transport.send(call)).data
