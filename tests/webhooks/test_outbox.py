"""The outbox: messages are added in the transaction of the change, and one sender claims each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from starlette.testclient import TestClient

from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState, FailureCode
from app.job_queue import transitions
from app.job_queue.reconciler import requeue_lost
from app.models import Job, WebhookDelivery
from app.webhooks import outbox
from tests.webhooks.receiver import Receiver
from tests.world import World


def queued(engine: Engine) -> list[tuple[str, str, str]]:
    """Return type, job id and status of each message, oldest first."""
    with transaction(engine) as session:
        rows = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.event_id))
        return [(row.type, row.data["id"], row.data["status"]) for row in rows]


def types(engine: Engine) -> list[str]:
    return [kind for kind, _, _ in queued(engine)]


def test_each_change_of_the_status_adds_a_message(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine
) -> None:
    job = world.submit(metadata={"team": "search"})
    lease = world.claim()
    world.step(lease, 1)
    client.post(f"/v1/jobs/{job['id']}/pause")
    assert types(engine) == ["job.running"]  # the job has not paused yet
    world.release(lease)
    client.post(f"/v1/jobs/{job['id']}/resume")
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    assert queued(engine) == [
        ("job.running", job["id"], "running"),
        ("job.paused", job["id"], "paused"),
        ("job.running", job["id"], "running"),
        ("job.succeeded", job["id"], "succeeded"),
    ]
    with transaction(engine) as session:
        last = session.scalars(
            select(WebhookDelivery).order_by(WebhookDelivery.event_id.desc())
        ).first()
        assert last is not None
        shown = {k: v for k, v in world.get(job).items() if k in last.data}
    assert last.data == shown
    assert last.data["adapter_id"] == adapter_id
    assert last.data["metadata"] == {"team": "search"}


def test_repeated_requests_add_one_message(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine
) -> None:
    job = world.submit()
    for act in ("pause", "pause", "resume", "cancel", "cancel"):
        assert client.post(f"/v1/jobs/{job['id']}/{act}").status_code == 200
    assert types(engine) == ["job.paused", "job.cancelled"]


def test_message_about_a_failure_contains_its_detail(
    hook: dict[str, Any], world: World, engine: Engine
) -> None:
    world.submit()
    world.fail(world.claim(), FailureCode.DATASET_INVALID, "line 3 is odd")
    assert types(engine) == ["job.running", "job.failed"]
    with transaction(engine) as session:
        row = session.scalar(select(WebhookDelivery).where(WebhookDelivery.type == "job.failed"))
        assert row is not None
        assert row.data["failure"]["detail"] == "line 3 is odd"


def test_loss_of_a_worker_adds_a_message(
    hook: dict[str, Any], world: World, engine: Engine, settings: Settings
) -> None:
    job = world.submit()
    lease = world.claim()
    with transaction(engine) as session:
        transitions.set_desired_state(session, "acme", job["id"], DesiredState.PAUSE)
    assert requeue_lost(engine, settings, owner_prefix=lease.lease.owner)
    assert types(engine) == ["job.running", "job.paused"]


def test_rolled_back_change_adds_no_message(
    hook: dict[str, Any], world: World, engine: Engine
) -> None:
    job = world.submit()
    with transaction(engine) as session:
        transitions.set_desired_state(session, "acme", job["id"], DesiredState.CANCEL)
        assert session.scalars(select(WebhookDelivery)).all()
        session.rollback()
    assert queued(engine) == []
    assert world.get(job)["status"] == "queued"


def test_webhook_receives_its_events_of_its_own_tenant_only(
    world: World,
    client: TestClient,
    engine: Engine,
    receiver: Receiver,
    key_for: Callable[..., str],
) -> None:
    body = {"url": receiver.url, "events": ["job.failed", "job.succeeded"]}
    wanting = client.post("/v1/webhooks", json=body).json()
    foreign = {"Authorization": f"Bearer {key_for('other')}"}
    assert (
        client.post("/v1/webhooks", json={"url": receiver.url}, headers=foreign).status_code == 201
    )
    world.submit()
    world.publish(world.claim(), {"adapter_config.json": b"{}"})
    with transaction(engine) as session:
        rows = session.scalars(select(WebhookDelivery)).all()
    assert [(row.webhook_id, row.type) for row in rows] == [(wanting["id"], "job.succeeded")]


def test_inspections_add_no_messages(hook: dict[str, Any], world: World, engine: Engine) -> None:
    world.submit()
    with transaction(engine) as session:
        assert session.scalar(select(Job.id).where(Job.kind == "preflight")) is not None
    world.claim_inspection()
    assert queued(engine) == []


def test_all_webhooks_get_the_same_message_id(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver
) -> None:
    client.post("/v1/webhooks", json={"url": receiver.url})
    world.submit()
    world.claim()
    with transaction(engine) as session:
        rows = session.scalars(select(WebhookDelivery)).all()
    assert len({row.webhook_id for row in rows}) == 2
    assert len({row.event_id for row in rows}) == 1


def test_concurrent_claims_do_not_overlap(
    hook: dict[str, Any], client: TestClient, engine: Engine, receiver: Receiver
) -> None:
    hooks = [client.post("/v1/webhooks", json={"url": receiver.url}).json()["id"] for _ in range(9)]
    for webhook_id in (hook["id"], *hooks):
        client.post(f"/v1/webhooks/{webhook_id}/test")
    taken: list[str] = []
    start = threading.Barrier(4)

    def claim() -> None:
        start.wait()
        while True:
            with transaction(engine) as session:
                found = outbox.claim(session, [hook["id"], *hooks])
            taken.extend(row.webhook_id for row in found)
            if not found:
                return

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted([hook["id"], *hooks])


@pytest.mark.parametrize(
    ("attempts", "minutes", "is_due"),
    [(0, 60, True), (1, 0.4, False), (1, 2, True), (2, 1, False), (4, 31, False), (4, 60, True)],
)
def test_message_does_not_wait_for_a_clock_that_stepped_back(
    hook: dict[str, Any],
    client: TestClient,
    engine: Engine,
    attempts: int,
    minutes: float,
    is_due: bool,
) -> None:
    client.post(f"/v1/webhooks/{hook['id']}/test")
    with transaction(engine) as session:
        later = {"attempts": attempts, "next_attempt_at": now_ms() + round(minutes * 60_000)}
        session.execute(update(WebhookDelivery).values(later))
    with transaction(engine) as session:
        assert [due.id for due in outbox.due_webhooks(session)] == [hook["id"]] * is_due


def test_webhook_is_deleted_while_a_job_changes(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine
) -> None:
    job = world.submit()
    deleted = threading.Event()

    def delete() -> None:
        assert client.delete(f"/v1/webhooks/{hook['id']}").status_code == 204
        deleted.set()

    thread = threading.Thread(target=delete)
    with transaction(engine) as session:
        transitions.set_desired_state(session, "acme", job["id"], DesiredState.CANCEL)
        thread.start()  # waits for the webhook's row, which this transaction has locked
    thread.join()
    assert deleted.is_set()
    assert world.get(job)["status"] == "cancelled"
    assert queued(engine) == []


def test_old_messages_are_deleted_unless_they_are_pending(
    hook: dict[str, Any], client: TestClient, engine: Engine
) -> None:
    for _ in range(3):
        client.post(f"/v1/webhooks/{hook['id']}/test")
    with transaction(engine) as session:
        first, second, third = session.scalars(
            select(WebhookDelivery).order_by(WebhookDelivery.event_id)
        )
        first.status, first.created_at = "delivered", 0
        second.created_at = 0
        third.status = "failed"
    with transaction(engine) as session:
        outbox.delete_old(session)
        left = session.scalars(select(WebhookDelivery.event_id)).all()
    assert sorted(left) == [second.event_id, third.event_id]
