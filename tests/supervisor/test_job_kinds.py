"""A new job kind is one row, a handler and a task; no other module changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core.database import new_id, transaction
from app.job_queue import kinds, queries, reconciler, transitions
from app.job_queue.kinds import JobKind
from app.jobs.queries import JobFilter, list_page
from app.models import Job, WebhookDelivery
from tests.model_factories.trainer_process import fork_server, spawn_fork
from tests.supervisor.toy_kind import HANDLERS, TASKS
from tests.supervisor.workshop import ROOT, TENANT, Workshop
from worker.supervisor import kinds as handlers
from worker.supervisor import pool
from worker.supervisor.trainer_process import Child

TOY = JobKind(
    name="toy",
    action="toy",
    queue=lambda settings: settings.queue,
    counts_against_quota=False,
    is_listed=False,
    saves_checkpoints=False,
    runtime_seconds=lambda _settings, _spec: 300,
    memory_bytes=lambda _settings: None,
    max_failures=lambda _settings: 1,
    retention_ms=1000,
)
#: The real trainer, which finds the task in a further directory of its package.
TRAINER = f"""
import sys
from worker.trainer import tasks
from worker.trainer.__main__ import main
tasks.__path__.append({str(TASKS)!r})
sys.exit(main())
"""


def spawn_trainer(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", TRAINER],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=keep,
    )


@pytest.fixture
def toy_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, TOY.name, TOY)


@pytest.fixture
def toy_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(handlers, "__path__", [*handlers.__path__, str(HANDLERS)])
    yield
    sys.modules.pop(f"{handlers.__name__}.{TOY.action}", None)


@pytest.fixture
def toys(
    workshop: Workshop, toy_row: None, toy_handler: None, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    """A workshop with the toy kind."""
    monkeypatch.setattr(pool, "spawn_cold", spawn_trainer)
    return workshop


def submit(workshop: Workshop, kind: str = TOY.name, **spec: Any) -> str:
    with transaction(workshop.engine) as session:
        return transitions.insert_job(
            session,
            Job(
                id=new_id("job"),
                tenant_id=TENANT,
                kind=kind,
                queue=workshop.settings.queue,
                spec=spec,
                spec_sha256="0" * 64,
                base_model="tiny",
            ),
        ).id


def test_job_of_a_new_kind_runs_to_its_end(toys: Workshop) -> None:
    job_id = submit(toys, numbers=[19, 23])
    with toys.running_pool():
        job = toys.wait(job_id, "succeeded", "failed")
    assert job.status == "succeeded", job.failure_detail
    assert job.result is not None
    assert job.result["sum"] == 42
    assert job.result["pid"] != os.getpid()
    assert toys.events(job_id) == ["queued", "claimed", "phase", "succeeded"]


def test_job_of_a_new_kind_follows_its_row(toys: Workshop) -> None:
    job_id = submit(toys, numbers=[])
    with toys.running_pool(quota_running=1):
        job = toys.wait(job_id, "failed")
    # max_failures: the error may be retried, and jobs of other kinds would be.
    assert (job.failure_code, job.failures) == ("hub_unavailable", 1)
    with toys.engine.connect() as connection:
        assert list_page(connection, TENANT, 10, None, JobFilter()) == []  # is_listed
        assert queries.running_count(connection, TENANT) == 0
        assert connection.execute(select(WebhookDelivery)).all() == []
    with transaction(toys.engine) as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - 2000))
    assert reconciler.delete_expired(toys.engine, TOY, 10) == 1  # retention_ms


def test_new_kind_is_free_of_the_quota_that_its_row_does_not_name(toys: Workshop) -> None:
    busy = toys.submit(metadata={"steps": 10_000, "step_ms": 50})
    with transaction(toys.engine) as session:
        session.execute(
            update(Job)
            .where(Job.id == busy)
            .values(
                status="running", lease_owner="elsewhere/0:x", lease_expires_at=2**53, attempt=1
            )
        )
    job_id = submit(toys, numbers=[1])
    with toys.running_pool(quota_running=1):
        assert toys.wait(job_id, "succeeded", "failed").status == "succeeded"


def assert_left_to_another_host(workshop: Workshop, job_id: str) -> None:
    with workshop.running_pool():
        job = workshop.wait(job_id, "failed")
    assert job.failure_code == "host_error"
    assert job.avoid_host
    assert repr(job.kind) in (job.failure_detail or "")


def test_job_of_a_kind_without_a_row_is_left_to_another_host(workshop: Workshop) -> None:
    assert_left_to_another_host(workshop, submit(workshop, "unheard-of"))


def test_job_of_a_kind_without_a_handler_is_left_to_another_host(
    workshop: Workshop, toy_row: None
) -> None:
    assert_left_to_another_host(workshop, submit(workshop))


def test_job_of_a_kind_without_a_task_is_left_to_another_host(
    workshop: Workshop, toy_row: None, toy_handler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_server()  # ends with the thread that starts it
    monkeypatch.setattr(pool, "spawn_cold", spawn_fork)  # the trainer has no such module
    assert_left_to_another_host(workshop, submit(workshop, numbers=[1]))
