"""Whether the service is ready."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from tests.job_queue.factories import register_worker


def test_service_is_ready_while_its_database_responds(
    client: TestClient, engine: Engine, settings: Settings
) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["workers"]) == (200, 0)
    assert answer.json()["checks"] == {"database": "ok", "storage": "ok", "broker": "ok"}
    register_worker(engine, settings.queue)
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
