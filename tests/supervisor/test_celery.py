"""Workers that take tickets from a real Redis. Faults of Redis delay jobs and never lose one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from app.core.broker import KEY_PREFIX, CeleryTickets, preflight_queue
from app.job_queue.reconciler import Reconciler
from tests.services import RedisServer, wait_until
from tests.supervisor.workshop import Workshop

pytestmark = pytest.mark.services


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill, freeze and flush."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
def shop(engine: Engine, tmp_path: Path, broker: RedisServer) -> Workshop:
    return Workshop(engine, tmp_path, redis_url=broker.url, slow_poll_seconds=600)


@contextmanager
def reconciled(shop: Workshop) -> Iterator[CeleryTickets]:
    """Run what the API runs: tickets and the reconciler."""
    tickets = CeleryTickets(shop.settings)
    reconciler = Reconciler(shop.engine, shop.settings, tickets)
    reconciler.start()
    try:
        yield tickets
    finally:
        reconciler.stop()
        tickets.close()


def test_ticket_is_acknowledged_while_its_job_runs(shop: Workshop, broker: RedisServer) -> None:
    job_id = shop.submit(metadata={"steps": 150, "step_ms": 50})
    with shop.process() as worker, reconciled(shop):
        shop.wait_step(job_id, 2)
        with redis.Redis.from_url(broker.url) as client:
            # A late acknowledgement would redeliver the ticket after the visibility timeout.
            assert client.hlen(KEY_PREFIX + "unacked") == 0
            assert client.llen(KEY_PREFIX + shop.settings.queue) == 0
        shop.hurry()
        shop.wait(job_id, "succeeded")
        worker.terminate()
        assert worker.wait(timeout=60) == 0
    assert shop.adapter(job_id) == shop.expected(150)


def test_worker_that_cannot_start_exits_and_leaves_tickets(
    shop: Workshop, broker: RedisServer
) -> None:
    (shop.directory / "data").mkdir()
    (shop.directory / "data" / "slots").touch()  # a file instead of a directory
    tickets = CeleryTickets(shop.settings)
    tickets.issue(shop.settings.queue)
    wait_until("the ticket", lambda: tickets.backlog(shop.settings.queue) == 1)
    with shop.process() as worker:
        assert worker.wait(timeout=60) == 1
    assert tickets.backlog(shop.settings.queue) == 1
    tickets.close()


def test_each_queue_gets_its_own_tickets_only(shop: Workshop, broker: RedisServer) -> None:
    tickets = CeleryTickets(shop.settings)
    train, inspect = shop.settings.queue, preflight_queue(shop.settings)
    for name in (train, train, inspect):
        tickets.issue(name)
    wait_until("the tickets", lambda: (tickets.backlog(train), tickets.backlog(inspect)) == (2, 1))
    tickets.close()


def test_sigterm_releases_the_job(shop: Workshop) -> None:
    job_id = shop.submit(metadata={"steps": 10_000, "step_ms": 50, "checkpoint_steps": 9999})
    with shop.process() as worker, reconciled(shop):
        shop.wait_step(job_id, 2)
        worker.terminate()
        assert worker.wait(timeout=60) == 0
    job = shop.read_job(job_id)
    assert (job.status, job.preemptions, job.failures) == ("queued", 1, 0)
    assert job.checkpoint_id is not None


def test_flushed_tickets_are_issued_again(shop: Workshop, broker: RedisServer) -> None:
    jobs = [shop.submit() for _ in range(3)]
    with shop.process(), reconciled(shop), redis.Redis.from_url(broker.url) as client:
        for job_id in jobs:
            client.flushall()
            shop.wait(job_id, "succeeded", seconds=90)


def test_no_job_is_lost_when_redis_is_killed(shop: Workshop, broker: RedisServer) -> None:
    with shop.process(), reconciled(shop) as tickets:
        first = shop.submit(metadata={"steps": 60, "step_ms": 50})
        tickets.issue(shop.settings.queue)
        shop.wait_step(first, 1)
        broker.stop()
        second = shop.submit()
        tickets.issue(shop.settings.queue)
        shop.hurry()
        shop.wait(first, "succeeded", seconds=90)  # it needs no broker to finish
        broker.start()
        shop.wait(second, "succeeded", seconds=120)


def test_jobs_run_without_redis(shop: Workshop, broker: RedisServer) -> None:
    broker.stop()
    job_id = shop.submit()
    with shop.process(slow_poll_seconds=1):
        shop.wait(job_id, "succeeded", seconds=90)


def test_issuing_a_ticket_never_blocks(shop: Workshop, broker: RedisServer) -> None:
    tickets = CeleryTickets(shop.settings)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    for _ in range(1000):
        tickets.issue(shop.settings.queue)
    spent = time.monotonic() - started
    broker.process.send_signal(signal.SIGCONT)
    tickets.close()
    # The socket timeout is 10 s each.
    assert spent < 5


def test_malformed_messages_in_redis_are_ignored(shop: Workshop, broker: RedisServer) -> None:
    queue = shop.settings.queue
    with redis.Redis.from_url(broker.url) as client, shop.process() as worker:
        for message in garbage(queue):
            client.lpush(KEY_PREFIX + queue, message)
        wait_until(
            "the garbage to be eaten", lambda: client.llen(KEY_PREFIX + queue) == 0, seconds=90
        )
        assert worker.poll() is None
        job_id = shop.submit()
        with reconciled(shop):
            shop.wait(job_id, "succeeded", seconds=90)
    assert shop.read_job(job_id).attempt == 1
    assert not (shop.directory / "owned").exists()


def garbage(queue: str) -> list[bytes]:
    """A message that an attacker with access to Redis might send."""
    envelope = {
        "body": "W1tdLCB7fSwge31d",  # [[], {}, {}]
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "jobs.train", "id": "1", "lang": "py", "argsrepr": "", "retries": 0},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_mode": 2,
            "delivery_tag": "forged",
            "body_encoding": "base64",
        },
    }

    def forged(**changes: Any) -> bytes:
        return json.dumps({**envelope, **changes}).encode()

    elsewhere = {**envelope["properties"], "delivery_info": {"routing_key": "nowhere"}}  # type: ignore[dict-item]
    return [
        forged(),
        forged(headers={"task": "os.system", "id": "2"}),
        forged(headers={}),
        forged(body="AAAA"),
        forged(**{"content-type": "application/x-python-serialize"}),
        forged(properties=elsewhere),
        forged(
            body="W1sibW9yZSJdLCB7ImFyZyI6IDF9LCB7fV0="
        ),  # arguments that the task does not take
        *[forged() for _ in range(50)],
    ]


def test_trainer_gets_no_secret_of_the_service(shop: Workshop) -> None:
    job_id = shop.submit(metadata={"fault": "hang", "fault_step": 1})
    with shop.process(), reconciled(shop):
        shop.wait_step(job_id)
        (trainer,) = shop.trainers()
        names = set(trainer.environ())
    assert not [name for name in names if name.startswith("PLAUDIT_")]
    assert os.environ.keys() - names
