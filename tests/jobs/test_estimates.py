"""Estimates of a dry run and of a job."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import transaction
from app.models import Job
from tests.world import World


def test_estimate_is_stored_with_the_job(world: World, client: TestClient) -> None:
    unknown = world.submit()
    missing = client.get(f"/v1/jobs/{unknown['id']}/reports/estimate").json()
    assert (missing["code"], "submission" in missing["hint"]) == ("report_not_found", True)
    world.know_base_model()
    spec = world.spec(training={"max_steps": 50})
    preview = client.post("/v1/jobs?dry_run=true", json=spec).json()
    job = client.post("/v1/jobs", json=spec).json()
    estimate = client.get(f"/v1/jobs/{job['id']}/reports/estimate").json()["document"]
    assert estimate == {name: preview[name] for name in estimate}
    assert estimate["steps"] == 50


def test_dry_run_estimates_the_duration_from_the_newest_job(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    world.know_base_model()
    body = world.spec(training={"batch_size": 4, "max_steps": 50})
    assert client.post("/v1/jobs?dry_run=true", json=body).json()["estimated_seconds"] is None
    done = world.submit(training={"batch_size": 8})
    with transaction(engine) as session:
        session.execute(
            update(Job)
            .where(Job.id == done["id"])
            .values(status="succeeded", rate_step=1, rate_at=0, step=11, progressed_at=20_000)
        )
    # 2 s a step of 8 pairs: 1 s a step of 4, 50 of them.
    preview = client.post("/v1/jobs?dry_run=true", json=body).json()
    assert preview["estimated_seconds"] == pytest.approx(50.0)
