"""A job's history, the queue, the workers, and the metrics for operators."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, insert, update
from starlette.testclient import TestClient

from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.domain.progress import Reported
from app.job_queue import kinds, worker_api
from app.job_queue.worker_api import Progress
from app.main import create_app
from app.models import Adapter, Job, JobMetric, Worker
from tests.api.world import World
from tests.job_queue.factories import requeue_expired

DOCS = Path(__file__).parents[2] / "docs"


def sign_in(engine: Engine, queue: str, **columns: Any) -> None:
    """A worker registers for a queue."""
    row = {
        "id": "host-ab-77",
        "host": "host",
        "queue": queue,
        "slots": 1,
        "devices": [{"name": "H200"}],
        "versions": {"torch": "2.13.0"},
    }
    with transaction(engine) as session:
        session.execute(insert(Worker).values(row | columns))


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
    sign_in(engine, world.settings.queue, slots=1)
    assert reasons() == [(high, 1, "next"), (low, 2, "behind_priority")]
    with transaction(engine) as session:
        session.execute(update(Worker).values(busy=1))
    assert reasons() == [(high, 1, "workers_busy"), (low, 2, "behind_priority")]
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.id == high).values(run_after=now_ms() + 60_000))
    assert reasons()[0] == (high, 1, "backoff")
    client.headers["Authorization"] = f"Bearer {key_for('other')}"
    other = world.submit()["id"]
    assert reasons() == [
        (other, 2, "behind_priority")
    ]  # the position counts the jobs of other tenants


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
        sign_in(engine, strict.queue, slots=4, busy=1)
        assert [i["reason"] for i in client.get("/v1/queue").json()["data"]] == ["quota"]


def test_workers_show_the_running_jobs_of_this_tenant(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any], key_for: Any
) -> None:
    world.claim()
    sign_in(engine, world.settings.queue, busy=1)
    worker = client.get("/v1/workers").json()["data"][0]
    assert (worker["host"], worker["busy"], worker["jobs"]) == ("host", 1, [job["id"]])
    assert worker["devices"] == [{"name": "H200"}]
    headers = {"Authorization": f"Bearer {key_for('other')}"}
    assert client.get("/v1/workers", headers=headers).json()["data"][0]["jobs"] == []
    with transaction(engine) as session:
        session.execute(update(Worker).values(seen_at=now_ms() - 120_000))
    assert client.get("/v1/workers").json()["data"] == []


def test_job_is_shown_on_the_worker_row_of_its_queue_only(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    inspections = kinds.INSPECT.queue(world.settings)
    sign_in(engine, world.settings.queue)
    sign_in(engine, inspections, id="host-ab-77/p")
    world.claim()
    world.claim_inspection()  # the submission asked for one
    shown = {row["queue"]: row["jobs"] for row in client.get("/v1/workers").json()["data"]}
    assert shown == {world.settings.queue: [job["id"]], inspections: []}


def test_base_model_shows_the_facts_of_its_inspection(world: World, client: TestClient) -> None:
    path = "/v1/base-models/all-minilm-l6-v2"
    before = client.get(path).json()
    assert (before["is_inspected"], before["architecture"]) == (False, None)
    world.know_base_model()
    after = client.get(path).json()
    assert after["is_inspected"] is True
    assert after["head_modules"] == ["classifier"]
    assert (after["max_length"], after["default_targets"]) == (256, ["query", "value"])
    listed = client.get("/v1/base-models").json()["data"]
    assert after in listed
    assert client.get("/v1/base-models/nope").json()["code"] == "base_model_not_found"


def test_local_base_model_does_not_show_its_path(
    settings: Settings, key_for: Callable[..., str], tmp_path: Any
) -> None:
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text("house:\n  source: local:/srv/secret/place\n")
    with TestClient(create_app(settings.model_copy(update={"base_models": catalogue}))) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        answer = client.get("/v1/base-models/house")
    assert answer.json()["source"] == "local"
    assert "secret" not in answer.text


def test_service_is_ready_while_its_database_responds(
    client: TestClient, engine: Engine, settings: Settings
) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["workers"]) == (200, 0)
    assert answer.json()["checks"] == {"database": "ok", "storage": "ok", "broker": "ok"}
    sign_in(engine, settings.queue)
    assert client.get("/readyz").json()["workers"] == 1


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ({"redis_url": "redis://127.0.0.1:1/0"}, "broker"),
        ({"database_url": "postgresql+psycopg://postgres@127.0.0.1:1/x"}, "database"),
    ],
)
def test_service_is_not_ready_without_what_it_needs(
    settings: Settings, setting: dict[str, str], check: str
) -> None:
    values = settings.model_dump(exclude={"database_url"}) | {
        "database_url": settings.database, **setting
    }  # fmt: skip
    with TestClient(create_app(Settings(**values))) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"][check]) == (503, "away")
        assert client.get("/healthz").status_code == 200
        figures = client.get("/metrics").text
    assert f"plaudit_database_up {0.0 if check == 'database' else 1.0}" in figures


def test_prometheus_metrics_have_queue_and_latency(
    world: World, client: TestClient, engine: Engine
) -> None:
    world.submit()
    world.submit()
    world.claim()
    sign_in(engine, world.settings.queue, slots=2, busy=1)
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
    sign_in(engine, world.settings.queue)
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


def test_merged_export_is_made_once_and_refused_for_quantised_bases(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    path = f"/v1/adapters/{adapter_id}/merge"
    assert client.get(path).json()["code"] == "merge_not_found"
    asked = client.post(path)
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    assert client.post(path).json()["id"] == asked.json()["id"]
    assert client.get(path).json()["id"] == asked.json()["id"]
    assert client.get(f"/v1/jobs/{asked.json()['id']}").status_code == 404
    world.fail(world.claim(), FailureCode.SCORE_MISMATCH, "scores differ")
    assert client.get(path).json()["failure"] == "scores differ"
    with transaction(engine) as session:
        session.execute(update(Adapter).values(summary={"quantization": "4bit"}))
    assert client.post(path).json()["code"] == "merge_inexact"
    assert client.post("/v1/adapters/ad_" + "0" * 32 + "/merge").status_code == 404


def test_deleted_merged_export_can_be_requested_again(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/adapters/{world.publish(world.claim(), {'adapter_config.json': b'{}'})}/merge"
    first = client.post(path).json()
    merged_id = world.publish(world.claim(), {"model.safetensors": b"{}"}, is_merged=True)
    assert client.post(path).json() == first | {"status": "succeeded", "adapter_id": merged_id}
    assert client.delete(f"/v1/adapters/{merged_id}").status_code == 204
    again = client.post(path).json()
    assert (again["id"] != first["id"], again["status"]) == (True, "queued")


def test_merged_export_is_not_merged_again(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    client.post(f"/v1/adapters/{adapter_id}/merge")
    merged_id = world.publish(world.claim(), {"model.safetensors": b"{}"}, is_merged=True)
    answer = client.post(f"/v1/adapters/{merged_id}/merge")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_merged")
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/adapters/{merged_id}").status_code == 200  # it is the tenant's own
    assert client.post(f"/v1/adapters/{merged_id}/merge").json()["code"] == "already_merged"
    assert client.post(f"/v1/adapters/{adapter_id}/merge").status_code == 404
