"""Tickets: Celery messages that tell workers that a queue has work.

The job's row in the database is the truth. A ticket carries no job id, no spec and no secret, so a
lost, duplicated or forged one does no harm. Tickets are issued after the commit and published in a
background thread, because publishing to a frozen Redis blocks until the socket's timeout.
"""

from __future__ import annotations

import queue
import threading
from typing import Protocol

import redis
import structlog
from celery import Celery
from kombu.entity import Exchange, Queue

from app.core.settings import Settings

log = structlog.get_logger()

TRAIN = "jobs.train"
KEY_PREFIX = "plaudit:"
#: A ticket may expire: the reconciler issues another one for a job that still waits.
TICKET_EXPIRES_SECONDS = 60


#: Concurrent inspections on a worker: a long one leaves a slot for the others.
PREFLIGHT_SLOTS = 2
#: Concurrent downloads and uploads on a worker.
TRANSFER_SLOTS = 1


def preflight_queue(settings: Settings) -> str:
    """Return the queue of inspections, which must not wait for long training jobs."""
    return f"{settings.queue}.preflight"


def transfer_queue(settings: Settings) -> str:
    """Return the queue of downloads and uploads, which need no trainer."""
    return f"{settings.queue}.transfer"


def queues(settings: Settings) -> list[str]:
    """Return every queue of this service."""
    return [settings.queue, preflight_queue(settings), transfer_queue(settings)]


class Tickets(Protocol):
    """Notifies workers that a queue has work."""

    def issue(self, queue_name: str, /) -> None:
        """Send one ticket, or drop it. Never blocks and never raises."""

    def backlog(self, queue_name: str, /) -> int:
        """Return the number of waiting tickets.

        Raises:
            OSError, redis.RedisError: The broker is unreachable.
        """

    def check(self) -> None:
        """Check that the broker accepts tickets.

        Raises:
            OSError, redis.RedisError: The broker is unreachable or full.
        """

    def close(self) -> None:
        """Stop publishing."""


class NoTickets:
    """Embedded mode: the supervisor polls the database and needs no tickets."""

    def issue(self, _queue_name: str) -> None:
        """Do nothing."""

    def backlog(self, _queue_name: str) -> int:
        """Return a large number, so that the reconciler issues no further ticket."""
        return 1 << 30

    def check(self) -> None:
        """Do nothing: there is no broker."""

    def close(self) -> None:
        """Do nothing."""


class CeleryTickets:
    """Celery on Redis. One thread publishes; it drops tickets that it cannot send in time."""

    def __init__(self, settings: Settings) -> None:
        assert settings.redis_url is not None
        self._app = make_celery(settings)
        self._redis = redis.Redis.from_url(
            settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2
        )
        self._pending: queue.Queue[str | None] = queue.Queue(maxsize=100)
        self._thread = threading.Thread(target=self._publish, name="tickets", daemon=True)
        self._thread.start()

    def issue(self, queue_name: str) -> None:
        """Pass the ticket to the publishing thread."""
        try:
            self._pending.put_nowait(queue_name)
        except queue.Full:
            log.warning("ticket_dropped", queue=queue_name)  # the reconciler issues another

    def backlog(self, queue_name: str) -> int:
        """Return the length of the queue's Redis list."""
        return int(self._redis.llen(KEY_PREFIX + queue_name))

    def check(self) -> None:
        """Write a key, because a full Redis still serves reads but rejects tickets."""
        self._redis.set(f"{KEY_PREFIX}ready", b"1", ex=60)

    def close(self) -> None:
        """Stop the thread after the ticket that it is publishing."""
        try:
            self._pending.put_nowait(None)
        except queue.Full:
            log.warning("tickets_not_published")
        self._thread.join(timeout=5)
        self._redis.close()
        self._app.close()

    def _publish(self) -> None:
        while (queue_name := self._pending.get()) is not None:
            try:
                self._app.send_task(TRAIN, queue=queue_name, expires=TICKET_EXPIRES_SECONDS)
            except Exception:
                log.warning("ticket_not_sent", queue=queue_name, exc_info=True)


def make_tickets(settings: Settings) -> Tickets:
    """Return the tickets of the configured mode: embedded, or with a broker."""
    return NoTickets() if settings.is_embedded else CeleryTickets(settings)


def make_celery(settings: Settings) -> Celery:
    """Create the Celery application that the API and the workers share."""
    app = Celery("plaudit")
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value() if settings.redis_url else "memory://",
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        # Acknowledge early: the database decides what runs. With late acknowledgement a task that
        # runs longer than the visibility timeout is delivered a second time.
        task_acks_late=False,
        task_track_started=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        task_default_queue=settings.queue,
        task_queues=[_queue(name) for name in queues(settings)],
        task_create_missing_queues=False,
        task_publish_retry=False,
        broker_connection_timeout=2,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        visibility_timeout=300,
        broker_transport_options={
            "visibility_timeout": 300,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": KEY_PREFIX,
        },
    )
    return app


def _queue(name: str) -> Queue:
    # With Celery's default exchange and routing key, every queue would receive every ticket.
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]
