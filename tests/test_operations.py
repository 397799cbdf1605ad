"""docs/operations.md lists every setting and alert, and its backup commands work."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml
from fastapi.routing import APIRoute
from sqlalchemy import Engine, make_url, update

from app.core.database import make_engine, now_ms, transaction
from app.core.settings import Settings
from app.job_queue import worker_api
from app.models import Blob, Job
from app.scoring.compat_router import router as scores_of_others
from app.scoring.router import router as scores
from app.storage import blobs
from app.storage.blobs import BlobWriter
from docs import reference
from tests.job_queue.factories import QUEUE, queue_job, read_job, requeue_expired

PAGE = reference.HERE / "operations.md"


def test_settings_table_matches_the_code() -> None:
    assert reference.operations_text() == PAGE.read_text(), "run `make openapi`"
    assert all(field.description for field in Settings.model_fields.values())


def test_every_alert_is_explained_in_one_row() -> None:
    rules = yaml.safe_load((reference.HERE / "alerts.yaml").read_text())["groups"][0]["rules"]
    rows = [row.split("|") for row in PAGE.read_text().splitlines() if row.startswith("| ")]
    explained = [name for row in rows for name in re.findall(r"`(Plaudit[A-Z]\w+)`", row[1])]
    assert sorted(explained) == sorted(rule["alert"] for rule in rules)


def test_rules_and_dashboard_tell_scoring_requests_from_others() -> None:
    """They may wait long for a scorer, and get 503 if none becomes available."""
    scoring = {
        route.path
        for router in (scores, scores_of_others)
        for route in router.routes
        if isinstance(route, APIRoute)
    }
    others = {
        path
        for path in json.loads((reference.HERE / "openapi.json").read_text())["paths"]
        if path not in scoring
    }
    assert len(scoring) > 15
    assert "/v1/score/batches" in others
    found = []
    for name, label in (("alerts.yaml", "route=~"), ("grafana.json", "route!~")):
        text = (reference.HERE / name).read_text().replace('\\"', '"')
        found += [(name, value) for value in re.findall(rf'{label}"(.*?)"', text)]
    assert [name for name, _ in found] == ["alerts.yaml"] * 2 + ["grafana.json"] * 2
    for name, pattern in found:
        assert [path for path in scoring if not re.fullmatch(pattern, path)] == []
        if name == "alerts.yaml":
            assert [path for path in others if re.fullmatch(pattern, path)] == []


def test_service_continues_on_a_restored_backup(
    engine: Engine,
    settings: Settings,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)  # the shortest backoff is 0
    with BlobWriter(engine) as writer:
        writer.write(os.urandom(3 << 20))
        stored = writer.finish()
    waiting, running = queue_job(engine), queue_job(engine, priority=1)
    assert worker_api.claim(engine, settings, QUEUE, "host-a/0:1", "host") is not None
    back_up = _back_up_sqlite if engine.dialect.name == "sqlite" else _back_up_postgres
    restored = make_engine(back_up(engine, tmp_path, request))
    queue_job(engine)  # after the backup, so not part of it
    try:
        assert blobs.is_intact(restored, stored)
        assert read_job(restored, running).status == "running"
        with transaction(restored) as session:
            assert session.query(Job).count() == 2
            assert session.query(Blob).count() == 1
            session.execute(
                update(Job).where(Job.id == running).values(lease_expires_at=now_ms() - 3_600_000)
            )
        assert [job.id for job in requeue_expired(restored, settings)] == [running]
        claimed = worker_api.claim(restored, settings, QUEUE, "host-b/0:1", "other")
        assert claimed is not None
        assert claimed.job.id == waiting  # the other job waits for its backoff
    finally:
        restored.dispose()


def _back_up_sqlite(engine: Engine, tmp_path: Path, _: pytest.FixtureRequest) -> str:
    path = engine.url.database
    assert path is not None
    source, target = sqlite3.connect(path), sqlite3.connect(tmp_path / "backup.db")
    with source, target:
        source.backup(target)  # the call behind .backup in the sqlite3 shell
    source.close()
    target.close()
    return f"sqlite:///{tmp_path / 'backup.db'}"


def _back_up_postgres(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if shutil.which("pg_dump") is None:
        pytest.skip("needs pg_dump")
    dump = tmp_path / "plaudit.dump"
    source = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    name = f"{engine.url.database}_restored"
    admin = make_url(source).set(database="postgres").render_as_string(hide_password=False)
    for command in (
        ["pg_dump", "--format=custom", f"--file={dump}", source],
        ["psql", admin, "-qc", f'CREATE DATABASE "{name}"'],
        ["pg_restore", "--no-owner", "-d", str(make_url(source).set(database=name)), str(dump)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    request.addfinalizer(
        lambda: subprocess.run(
            ["psql", admin, "-qc", f'DROP DATABASE "{name}" WITH (FORCE)'], check=True
        )
    )
    return engine.url.set(database=name).render_as_string(hide_password=False)
