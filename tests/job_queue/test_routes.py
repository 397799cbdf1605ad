"""The queue and the workers over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.job_queue import kinds
from app.main import create_app
from app.models import Job, Worker
from tests.job_queue.factories import register_worker
from tests.world import World


def test_queue_shows_why_jobs_wait(
    world: World, client: TestClient, engine: Engine, key_for: Callable[..., str]
) -> None:
    train = world.upload()["id"]
    low = world.submit(train_dataset=train, priority=-5)["id"]
    high = world.submit(train_dataset=train, priority=5)["id"]

    def reasons() -> list[tuple[str, int, str]]:
        data = client.get("/v1/queue").json()["data"]
        return [(item["job_id"], item["position"], item["reason"]) for item in data]

    assert reasons() == [(high, 1, "no_worker"), (low, 2, "no_worker")]
    register_worker(engine, world.settings.queue, slots=1)
    assert reasons() == [(high, 1, "next"), (low, 2, "behind_priority")]
    with transaction(engine) as session:
        session.execute(update(Worker).values(busy=1))
    assert reasons() == [(high, 1, "workers_busy"), (low, 2, "behind_priority")]
    with transaction(engine) as session:
        session.execute(
            update(Job).where(Job.id == high).values(run_after=now_ms() + 60_000, attempt=1)
        )
    assert reasons()[0] == (high, 1, "backoff")
    client.headers["Authorization"] = f"Bearer {key_for('other')}"
    other = world.submit()["id"]
    assert reasons() == [
        (other, 2, "behind_priority")
    ]  # the position counts the jobs of other tenants


def test_queue_and_workers_show_evaluations_and_score_batches(
    world: World, client: TestClient, engine: Engine
) -> None:
    """They wait for the same workers as training, so they count for the positions of jobs."""
    evaluation = world.request_evaluation()
    names = {"adapter": evaluation["adapters"][0], "dataset": evaluation["dataset"]}
    batch = world.request_score_batch(**names)
    job = world.submit()
    queue = client.get("/v1/queue").json()["data"]
    shown = [(item["job_id"], item["position"]) for item in queue]
    assert shown == [(evaluation["id"], 1), (batch["id"], 2), (job["id"], 3)]
    register_worker(engine, world.settings.queue, busy=2)
    for _ in range(2):
        world.claim()
    (worker,) = client.get("/v1/workers").json()["data"]
    assert set(worker["jobs"]) == {evaluation["id"], batch["id"]}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"quantization": "4bit"}, "no_gpu"),
        ({"training": {"optimizer": "adamw_bnb_8bit"}}, "no_gpu"),
        ({}, "next"),
    ],
)
def test_queue_shows_that_a_gpu_is_missing(
    world: World, engine: Engine, spec: dict[str, Any], reason: str
) -> None:
    world.submit(**spec)
    register_worker(engine, world.settings.queue, devices=[])

    def shown() -> list[str]:
        return [item["reason"] for item in world.client.get("/v1/queue").json()["data"]]

    assert shown() == [reason]
    register_worker(engine, world.settings.queue, id="gpu-host-1")
    assert shown() == ["next"]


def test_queue_shows_that_the_quota_is_used_up(
    settings: Settings, engine: Engine, key_for: Callable[..., str]
) -> None:
    strict = settings.model_copy(update={"quota_running": 1})
    with TestClient(create_app(strict)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        world = World(client, engine, strict)
        world.submit()
        world.claim()
        world.submit()
        register_worker(engine, strict.queue, slots=4, busy=1)
        assert [i["reason"] for i in client.get("/v1/queue").json()["data"]] == ["quota"]


def test_workers_show_the_running_jobs_of_this_tenant(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any], key_for: Any
) -> None:
    world.claim()
    register_worker(engine, world.settings.queue, busy=1)
    worker = client.get("/v1/workers").json()["data"][0]
    assert (worker["host"], worker["busy"], worker["jobs"]) == ("host", 1, [job["id"]])
    assert worker["devices"] == [{"name": "H200"}]
    assert worker["doctor"] == []
    headers = {"Authorization": f"Bearer {key_for('other')}"}
    assert client.get("/v1/workers", headers=headers).json()["data"][0]["jobs"] == []
    with transaction(engine) as session:
        session.execute(update(Worker).values(seen_at=now_ms() - 120_000))
    assert client.get("/v1/workers").json()["data"] == []


def test_job_is_shown_on_the_worker_row_of_its_queue_only(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    inspections = kinds.INSPECT.queue(world.settings)
    register_worker(engine, world.settings.queue)
    register_worker(engine, inspections, id="host-ab-77/p")
    world.claim()
    world.claim_inspection()  # the submission asked for one
    shown = {row["queue"]: row["jobs"] for row in client.get("/v1/workers").json()["data"]}
    assert shown == {world.settings.queue: [job["id"]], inspections: []}
