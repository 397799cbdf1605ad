"""``python -m worker.scorer``: score requests of the API until SIGTERM or SIGINT.

With ``--with-parent PID`` the scorer ends with the process that started it, and after
``scorer_idle_seconds`` without a request.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

from app.core.database import make_engine, new_id
from app.core.logging import configure_logging
from app.core.scorer_token import read_token
from app.core.settings import Settings
from worker.ipc.parent_death import die_with_parent
from worker.scorer.environment import prepare_libraries


def main() -> int:
    """Serve; the exit status is 0 after a signal or an idle time, 1 if it cannot start."""
    is_child = "--with-parent" in sys.argv
    if is_child:
        die_with_parent()
        if os.getppid() != int(sys.argv[-1]):  # the parent ended while this process was loading
            return 1
    settings = Settings()
    configure_logging()
    token = read_token(settings)
    if token is None:
        print(  # noqa: T201 - for the person who started it
            "Set PLAUDIT_SCORER_TOKEN to the same secret here and for the API.", file=sys.stderr
        )
        return 1
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _serve(settings, token, stopping, idle_seconds=settings.scorer_idle_seconds if is_child else 0)
    return 0


def _serve(settings: Settings, token: str, stopping: threading.Event, idle_seconds: float) -> None:
    prepare_libraries(settings.trainer_threads)
    import torch

    from app.base_models.catalogue import load_catalogue
    from worker.scorer.adapter_pool import AdapterPool
    from worker.scorer.admission import FETCHERS
    from worker.scorer.engine import Engine
    from worker.scorer.http import HttpThread, make_app
    from worker.scorer.metrics import ScorerMetrics
    from worker.scorer.registration import ScorerRegistration

    torch.set_num_threads(settings.trainer_threads)
    database = make_engine(settings.database, 2 + FETCHERS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = AdapterPool(database, settings, load_catalogue(settings.base_models), device)
    metrics = ScorerMetrics()
    engine = Engine(pool, settings, metrics)
    listener = socket.create_server((settings.scorer_host, settings.scorer_port), backlog=2048)
    row = {
        "id": f"{socket.gethostname()}-{new_id('sc')}",
        "queue": settings.queue,
        "url": settings.scorer_url or _address(settings.scorer_host, listener.getsockname()[1]),
    }
    http = HttpThread(make_app(engine, metrics, token))
    registration = ScorerRegistration(
        database, row, lambda: {"adapters": sorted(pool.adapters), "bases": pool.base_count}
    )
    http.start([listener])
    registration.start()
    if idle_seconds:
        _stop_when_idle(engine, stopping, idle_seconds)
    engine.run(stopping)
    registration.remove()
    engine.run(stopping)  # requests that arrived before the API noticed
    http.stop()
    database.dispose()


def _stop_when_idle(engine: object, stopping: threading.Event, seconds: float) -> None:
    def watch() -> None:
        while not stopping.wait(min(seconds, 1.0)):
            is_idle = time.monotonic() - engine.last_used_at > seconds  # type: ignore[attr-defined]
            if is_idle and not engine.waiting:  # type: ignore[attr-defined]
                stopping.set()

    threading.Thread(target=watch, name="idle", daemon=True).start()


def _address(host: str, port: int) -> str:
    """Return the URL of a socket; one that listens on all addresses is named by the machine's."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostbyname(socket.gethostname())
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
