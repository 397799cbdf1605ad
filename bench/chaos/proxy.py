"""A TCP proxy on loopback that can drop, delay and hold back traffic."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress


class Proxy(threading.Thread):
    """Forwards to a port of this machine, with one thread for each direction of a connection."""

    def __init__(self, target: int) -> None:
        super().__init__(name="proxy", daemon=True)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.delay_seconds = 0.0
        #: Keep connections open, but forward nothing.
        self.is_half_open = False

    def run(self) -> None:
        """Accept connections until :meth:`stop` is called."""
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def drop(self) -> None:
        """Reset every connection."""
        for end in self._open:
            with suppress(OSError):
                # Linger 0: send a reset instead of closing the connection in order.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._open = []

    def heal(self) -> None:
        """Forward without delay again."""
        self.delay_seconds, self.is_half_open = 0.0, False

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._listener.close()
        self.drop()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while True:
                select.select([source], [], [])
                while self.is_half_open:
                    time.sleep(0.05)
                data = source.recv(65536)
                if not data:
                    break
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
