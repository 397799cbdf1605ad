"""Metrics, logs, checkpoints and reports of a job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, insert
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.settings import Settings
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.models import JobMetric
from tests.world import World


def test_metrics_are_columns_with_null_for_missing_values(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    lease = world.claim()
    world.step(lease, 1, train__loss=0.7)
    world.step(lease, 2, train__loss=0.5, eval__accuracy=0.8)
    path = f"/v1/jobs/{job['id']}/metrics"
    assert client.get(path).json()["columns"] == {
        "step": [1, 2],
        "train/loss": [0.7, 0.5],
        "eval/accuracy": [None, 0.8],
    }
    assert client.get(f"{path}?keys=eval/accuracy").json()["columns"] == {
        "step": [2],
        "eval/accuracy": [0.8],
    }
    assert client.get(f"{path}?from_step=2&keys=train/loss,nothing").json()["columns"] == {
        "step": [2],
        "train/loss": [0.5],
        "nothing": [None],
    }
    assert client.get(f"{path}?keys=step,train/loss").json()["columns"] == {
        "step": [1, 2],
        "train/loss": [0.7, 0.5],
    }
    assert client.get(f"{path}?to_step=0").json()["columns"] == {"step": []}


def test_long_runs_are_averaged_down_to_the_resolution(
    client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    rows = [
        {"job_id": job["id"], "step": s, "name": "train/loss", "value": float(s), "attempt": 1}
        for s in range(1, 1001)
    ]
    rows.append(rows[499] | {"name": "eval/accuracy", "value": 0.9})
    with transaction(engine) as session:
        session.execute(insert(JobMetric), rows)
    columns = client.get(f"/v1/jobs/{job['id']}/metrics?resolution=10").json()["columns"]
    assert columns["step"] == list(range(100, 1001, 100))
    assert columns["train/loss"] == [50.5 + 100 * i for i in range(10)]
    assert columns["eval/accuracy"] == [None] * 4 + [0.9] + [None] * 5


def test_logs_are_paged_by_piece(world: World, client: TestClient, job: dict[str, Any]) -> None:
    lease = world.claim()
    for seq in range(5):
        worker_api.record_log(lease, seq, f"line {seq}\n")
    path = f"/v1/jobs/{job['id']}/logs"
    first = client.get(f"{path}?limit=2").json()
    assert [p["text"] for p in first["data"]] == ["line 0\n", "line 1\n"]
    rest = client.get(f"{path}?after={first['next']}").json()
    assert [p["text"] for p in rest["data"]] == ["line 2\n", "line 3\n", "line 4\n"]
    last = client.get(f"{path}?tail=2").json()
    assert [p["text"] for p in last["data"]] == ["line 3\n", "line 4\n"]


def test_current_checkpoint_is_marked(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    lease = world.claim()
    world.checkpoint(lease, 5)
    world.checkpoint(lease, 10)
    found = client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]
    assert [(c["step"], c["is_current"]) for c in found] == [(10, True), (5, False)]
    assert found[0]["bytes"] == len(b'{"step": 10}')


def test_worst_pairs_can_be_read_once_they_are_reported(
    world: World, client: TestClient, engine: Engine, settings: Settings, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}/reports/worst_pairs"
    missing = client.get(path)
    assert (missing.status_code, missing.json()["code"]) == (404, "report_not_found")
    pairs = {"pairs": [{"line": 7, "margin": -2.5}]}
    report = Reported(name="worst_pairs", document=pairs)
    worker_api.record_progress(world.claim(), Progress(reports=[report]))
    assert client.get(path).json()["document"] == pairs
