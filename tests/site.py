"""The service behind a port, in this process."""

from __future__ import annotations

import threading

import uvicorn

from app.core.settings import Settings
from app.main import create_app
from tests import services


class Site:
    """The service on its own port; it can be stopped and restarted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = services.free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start to serve."""
        config = uvicorn.Config(
            create_app(self.settings),
            port=self.port,
            ws="none",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="site")
        self._thread.start()
        services.wait_until("the service", lambda: self._server.started)

    def stop(self) -> None:
        """Break all connections."""
        self._server.should_exit = True
        self._thread.join()
