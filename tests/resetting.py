"""A server that resets connections as soon as they are made, as a process that dies does."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress

Respond = Callable[[socket.socket], None]


@contextmanager
def resetting_server(respond: Respond | None = None) -> Iterator[int]:
    """Run the server, and yield its port.

    It resets every connection. With ``respond`` it resets half of them, and that function responds
    on the others and closes them.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=_serve, args=(listener, respond))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _serve(listener: socket.socket, respond: Respond | None) -> None:
    draw = random.Random(0)
    with ThreadPoolExecutor(8) as pool:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            if respond is not None and draw.random() < 0.5:
                pool.submit(respond, connection)
                continue
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
