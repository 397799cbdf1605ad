"""Dependencies of endpoints that take specs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.job_queue.dependencies import WatcherDep
from app.jobs.preflight import Preflight
from app.web.dependencies import EngineDep, SettingsDep, TicketsDep


async def get_preflight(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    watcher: WatcherDep,
) -> Preflight:
    """Return the preflight checks of this service."""
    return Preflight(engine, settings, request.app.state.catalogue, tickets, watcher)


PreflightDep = Annotated[Preflight, Depends(get_preflight)]
