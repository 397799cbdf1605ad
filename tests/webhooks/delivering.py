"""Send due messages without the thread of the service."""

from __future__ import annotations

import anyio
from sqlalchemy import Engine

from app.webhooks.delivery import Sender
from app.webhooks.dispatch import Dispatcher


def deliver_due(engine: Engine, sender: Sender) -> int:
    """Send at most one due message of each webhook; return the number of attempts."""
    dispatcher = Dispatcher(engine, sender)
    messages = dispatcher.claim()

    async def deliver() -> None:
        async with anyio.create_task_group() as group:
            for message in messages:
                group.start_soon(dispatcher.deliver, message)

    anyio.run(deliver)
    assert dispatcher.is_idle
    return len(messages)
