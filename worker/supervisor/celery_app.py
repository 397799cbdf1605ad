"""The Celery consumer: ``celery -A worker.supervisor.celery_app worker -P threads``.

Use the threads pool: solo acknowledges a ticket only after the task, and the children of prefork do
not see that the worker drains. ``plaudit worker`` starts it with the right arguments.
"""

from __future__ import annotations

import threading
from typing import Any

import structlog
from celery.signals import worker_init, worker_shutdown, worker_shutting_down

from app.core.broker import make_celery
from app.core.logging import configure_logging
from app.core.settings import Settings
from worker.supervisor import celery_task
from worker.supervisor.pool import WorkerPool

log = structlog.get_logger()
settings = Settings()
app = make_celery(settings)
celery_task.register(app)


@worker_init.connect  # type: ignore[untyped-decorator]
def _open(**_: Any) -> None:
    configure_logging()
    try:
        pool = WorkerPool(settings)
        celery_task.set_pool(pool)
        pool.start()
    except Exception as error:
        log.exception("worker_not_started")
        # Celery continues after any other error and would consume tickets without doing anything.
        raise SystemExit(str(error)) from error
    # Jobs are found even if the broker is unavailable or lost its tickets.
    for thread in pool.pollers(settings.slow_poll_seconds):
        thread.daemon = True
        thread.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    celery_task.get_pool().draining.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("poll-"):
            thread.join()
    celery_task.get_pool().close()
