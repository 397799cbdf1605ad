"""Dependencies of endpoints that wait for jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.job_queue.watcher import Watcher


async def get_watcher(request: Request) -> Watcher:
    """Return the watcher of this process."""
    watcher: Watcher = request.app.state.watcher
    return watcher


WatcherDep = Annotated[Watcher, Depends(get_watcher)]
