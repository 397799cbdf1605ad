"""The metrics for Prometheus, and the dashboard and alerts that use them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import transaction
from app.models import Job
from tests.job_queue.factories import register_worker, requeue_expired
from tests.world import World

DOCS = Path(__file__).parents[2] / "docs"


def test_prometheus_metrics_have_queue_and_latency(
    world: World, client: TestClient, engine: Engine
) -> None:
    world.submit()
    world.submit()
    world.claim()
    register_worker(engine, world.settings.queue, slots=2, busy=1)
    figures = client.get("/metrics").text
    queue = world.settings.queue
    assert f'plaudit_queue_depth{{queue="{queue}"}} 1.0' in figures
    assert re.search(rf'plaudit_queue_oldest_seconds{{queue="{queue}"}} \d', figures)
    assert 'plaudit_jobs{status="running"} 1.0' in figures
    assert f'plaudit_worker_slots{{queue="{queue}"}} 2.0' in figures
    assert re.search(
        r'http_request_seconds_count\{method="POST",route="/v1/jobs",status="201"\} 2.0', figures
    )


def test_prometheus_metrics_have_training_speed_and_lost_leases(
    world: World, client: TestClient, engine: Engine
) -> None:
    world.know_base_model()
    job = world.submit(training={"batch_size": 4})
    world.claim()
    with transaction(engine) as session:
        moving = {"rate_step": 1, "rate_at": 10_000, "step": 11, "progressed_at": 15_000}
        session.execute(update(Job).where(Job.id == job["id"]).values(moving))
    assert "plaudit_training_pairs_per_second 8.0" in client.get("/metrics").text
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.id == job["id"]).values(lease_expires_at=0))
    assert "plaudit_leases_lost_last_hour 0.0" in client.get("/metrics").text
    requeue_expired(engine, world.settings)
    assert "plaudit_leases_lost_last_hour 1.0" in client.get("/metrics").text


def test_dashboard_and_alerts_use_existing_metrics_only(
    world: World, client: TestClient, engine: Engine
) -> None:
    world.submit()
    register_worker(engine, world.settings.queue)
    exported = set(re.findall(r"^(plaudit_\w+)", client.get("/metrics").text, re.MULTILINE))
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exported}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    shown = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    rules = yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"][0]["rules"]
    asked = {
        name for text in [*shown, *(rule["expr"] for rule in rules)]
        for name in re.findall(r"plaudit_\w+", text)
    }  # fmt: skip
    assert asked <= exported
    assert {re.sub(r"_(bucket|count)$", "", name) for name in asked} == families
