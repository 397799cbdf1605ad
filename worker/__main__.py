"""``python -m worker``: a Celery worker, or without a broker a worker that polls the database.

With ``--with-parent PID`` the worker ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from app.core.broker import PREFLIGHT_SLOTS, TRANSFER_SLOTS
from app.core.logging import configure_logging
from app.core.settings import Settings
from worker.ipc.parent_death import die_with_parent
from worker.supervisor.devices import DeviceError
from worker.supervisor.pool import NoFreeSlotError, WorkerPool


def main() -> int:
    """Run jobs until SIGTERM or SIGINT; then release the running ones and exit."""
    settings = Settings()
    if not settings.is_embedded:
        return _consume(settings)
    configure_logging()
    if "--with-parent" in sys.argv:
        die_with_parent()
        if os.getppid() != int(sys.argv[-1]):  # the parent ended while this process was loading
            return 1
    try:
        pool = WorkerPool(settings)
    except (DeviceError, NoFreeSlotError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person who started it
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pool.draining.set())
    pool.start()
    threads = pool.pollers(settings.poll_seconds)
    for thread in threads:
        thread.start()
    _join(threads)
    pool.close()
    return 0


def _consume(settings: Settings) -> int:
    from worker.supervisor.celery_app import app

    app.worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={settings.slots + PREFLIGHT_SLOTS + TRANSFER_SLOTS}",
            "--hostname=gpu@%h",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=WARNING",
        ]
    )
    return 0


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        # A join without a timeout would hold back the signal handler on some platforms.
        while thread.is_alive():
            thread.join(timeout=1.0)


if __name__ == "__main__":
    sys.exit(main())
