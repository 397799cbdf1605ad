"""Usage per tenant and day, from real attempts of real jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import now_ms, transaction
from app.job_queue import transitions
from app.models import Job, UsageDay
from app.usage import service
from app.usage.meter import TokenMeter
from tests.world import World


def used(client: TestClient, **headers: str) -> dict[str, Any]:
    answer = client.get("/v1/usage?days=1", headers=headers)
    assert answer.status_code == 200, answer.text
    days = answer.json()["data"]
    return dict(days[0]) if days else {}


def started_earlier(engine: Engine, seconds: int) -> None:
    with transaction(engine) as session:
        session.execute(update(Job).values(attempt_started_at=now_ms() - 1000 * seconds))


def test_attempts_are_charged_even_after_the_job_is_gone(
    world: World, client: TestClient, engine: Engine, key_for: Callable[..., str]
) -> None:
    job = world.submit()
    lease = world.claim()
    started_earlier(engine, 30)
    world.release(lease)
    world.publish(world.claim(), {"adapter_config.json": b"{}"})
    client.delete(f"/v1/jobs/{job['id']}")
    assert 30 <= used(client)["device_seconds"] < 60
    assert used(client, Authorization=f"Bearer {key_for('other')}") == {}


def test_time_of_a_lost_worker_is_charged(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    world.claim()
    started_earlier(engine, 50)
    with transaction(engine) as session:
        swept = transitions.sweep(
            session, lost=[], backoff_ms=0, max_crashes=3, max_stalls=3, owner_prefix="host-ab/0:"
        )
    assert len(swept) == 1
    assert 50 <= used(client)["device_seconds"] < 80


def test_stored_bytes_are_those_of_now(world: World, client: TestClient, engine: Engine) -> None:
    datasets = [world.upload() for _ in range(2)]
    sizes = [dataset["bytes"] for dataset in datasets]
    for _ in range(2):
        service.record_stored_bytes(engine)
    assert used(client)["stored_bytes"] == sum(sizes)
    with transaction(engine) as session:
        service.add(session, "acme", scored_tokens=7)
        service.add(session, "acme", scored_tokens=5)
    assert (used(client)["scored_tokens"], used(client)["stored_bytes"]) == (12, sum(sizes))
    for dataset in datasets:
        client.delete(f"/v1/datasets/{dataset['id']}")
    service.record_stored_bytes(engine)
    assert (used(client)["scored_tokens"], used(client)["stored_bytes"]) == (12, 0)


def test_scored_tokens_are_stored_when_the_process_ends(client: TestClient, engine: Engine) -> None:
    meter = TokenMeter(engine)
    meter.start()
    for tokens in (3, 4):
        meter.add("acme", tokens)
    meter.stop()
    assert used(client)["scored_tokens"] == 7


@pytest.mark.parametrize(("days", "count"), [(1, 0), (3, 1), (366, 2)])
def test_days_back_are_chosen(client: TestClient, engine: Engine, days: int, count: int) -> None:
    with transaction(engine) as session:
        today = service._today(session)
        for ago in (2, 100):
            session.add(UsageDay(tenant_id="acme", day=today - ago))
    assert len(client.get(f"/v1/usage?days={days}").json()["data"]) == count
