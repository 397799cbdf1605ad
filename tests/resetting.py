"""A server that resets every connection as soon as it is made, as a process that dies does."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress


@contextmanager
def resetting_server() -> Iterator[int]:
    """Run the server, and yield its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=_serve, args=(listener,))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


@asynccontextmanager
async def busy_loop() -> AsyncIterator[None]:
    """Keep the event loop busy, so that it learns of a reset before it uses the connection."""

    async def work() -> None:
        while True:
            time.sleep(0.002)
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
