"""API keys, scopes and the isolation of tenants."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select, text
from starlette.testclient import TestClient

from app.api_keys import service
from app.auth.key_ring import _checksum
from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.settings import Settings
from app.main import create_app
from app.models import ApiKey, Base
from tests.world import BASE_MODEL, World

PUBLIC = {"/healthz", "/readyz", "/metrics", "/problems/{code}"}
BRACES = str.maketrans("", "", "{}")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Return method and path of every operation in the OpenAPI document."""
    return [
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]


def test_all_routes_but_the_public_ones_need_a_key(
    app: FastAPI, anonymous: TestClient, subtests: pytest.Subtests
) -> None:
    for method, path in operations(app):
        url = path.replace("{code}", "not_found").translate(BRACES)
        with subtests.test(f"{method} {path}"):
            answer = anonymous.request(method, url)
            assert answer.status_code == (200 if path in PUBLIC else 401)
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
        lambda token: token.replace("plk_", "plx_"),
        lambda token: token[:40],
        lambda token: "plk_" + "0" * 32 + token[36:],
        lambda _: "",
    ],
)
def test_wrong_key_is_rejected(
    anonymous: TestClient, key_for: Callable[..., str], change: Callable[[str], str]
) -> None:
    answer = anonymous.get("/v1/jobs", headers=bearer(change(key_for("acme"))))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_key_is_accepted_as_bearer_token_only(
    anonymous: TestClient, key_for: Callable[..., str]
) -> None:
    token = key_for("acme")
    assert anonymous.get(f"/v1/jobs?api_key={token}").status_code == 401
    assert anonymous.get("/v1/jobs", auth=("key", token)).status_code == 401


def test_id_with_the_secret_of_another_key_is_rejected(
    anonymous: TestClient, key_for: Callable[..., str]
) -> None:
    first, second = key_for("acme"), key_for("acme")
    body = first[:37] + second[37:80]
    assert anonymous.get("/v1/jobs", headers=bearer(first)).status_code == 200
    forged = f"{body}_{_checksum(body)}"
    assert anonymous.get("/v1/jobs", headers=bearer(forged)).status_code == 401


def test_expired_key_is_rejected(anonymous: TestClient, key_for: Callable[..., str]) -> None:
    token = key_for("acme", expires_at=round(time.time() * 1000) - 1)
    assert anonymous.get("/v1/jobs", headers=bearer(token)).status_code == 401


def test_key_is_created_used_and_revoked(client: TestClient, engine: Engine) -> None:
    created = client.post("/v1/api-keys", json={"name": "ci", "scopes": ["jobs:read"]})
    assert created.status_code == 201, created.text
    key = created.json()
    assert client.get("/v1/jobs", headers=bearer(key["secret"])).status_code == 200
    listed = client.get("/v1/api-keys").json()["data"]
    assert [k["name"] for k in listed] == ["ci", "a test"]
    assert listed[0]["last_used_at"] is not None
    assert "secret" not in listed[0]
    with transaction(engine) as session:
        row = session.scalar(select(ApiKey).where(ApiKey.id == key["id"]))
        assert row is not None
        secret = key["secret"].split("_")[2]
        assert row.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()

    assert client.delete(f"/v1/api-keys/{key['id']}").status_code == 204
    assert client.get("/v1/jobs", headers=bearer(key["secret"])).status_code == 401
    assert client.delete(f"/v1/api-keys/{key['id']}").status_code == 404


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"])
def test_invalid_expiry_of_a_key_is_rejected(client: TestClient, moment: str) -> None:
    body = {"name": "x", "scopes": ["admin"], "expires_at": moment}
    answer = client.post("/v1/api-keys", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "/expires_at")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/adapters"),
        ("GET", "/v1/api-keys"),
        ("DELETE", "/v1/datasets/ds_" + "0" * 32),
        ("POST", f"/v1/jobs/job_{'0' * 32}/cancel"),
    ],
)
def test_key_without_the_scope_is_forbidden(
    anonymous: TestClient, key_for: Callable[..., str], method: str, path: str
) -> None:
    headers = bearer(key_for("acme", Scope.JOBS_READ))
    assert anonymous.get("/v1/jobs", headers=headers).status_code == 200
    answer = anonymous.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_ids_of_another_tenant_are_not_found_on_any_route(
    app: FastAPI,
    world: World,
    client: TestClient,
    key_for: Callable[..., str],
    subtests: pytest.Subtests,
) -> None:
    world.know_base_model()
    job = world.submit()
    lease = world.claim()
    world.step(lease, 1, train__loss=0.5)
    adapter_id = world.publish(lease, {"adapter_config.json": b"{}"})
    waiting = world.submit()
    dataset = job["spec"]["train_dataset"]
    evaluation = world.request_evaluation(adapters=[adapter_id], dataset=dataset)
    key_id = client.get("/v1/api-keys").json()["data"][0]["id"]
    upload_id = client.post("/v1/datasets/uploads").json()["id"]
    import_id = client.post("/v1/datasets/imports", json={"source": "hub:acme/pairs"}).json()["id"]
    ids = {
        "upload_id": upload_id,
        "import_id": import_id,
        "number": "1",
        "job_id": job["id"],
        "dataset_id": job["spec"]["train_dataset"],
        "adapter_id": adapter_id,
        "name": "worst_pairs",
        "key_id": key_id,
        "evaluation_id": evaluation["id"],
        "batch_id": world.request_score_batch(adapter=adapter_id, dataset=dataset)["id"],
    }
    headers = bearer(key_for("intruder"))
    with_ids = [
        (method, path)
        for method, path in operations(app)
        if any(f"{{{name}}}" in path for name in ids) and "base-models" not in path
    ]
    assert len(with_ids) >= 20
    for method, path in with_ids:
        body: Any = {"name": "x"} if method in ("PATCH", "PUT") else None
        if path.endswith("/push"):
            body = {"repo": "acme/rewards"}
        query = {"base_model": BASE_MODEL} if path.endswith("/report") else None
        with subtests.test(f"{method} {path}"):
            url = path.format(**ids)
            answer = client.request(method, url, headers=headers, json=body, params=query)
            assert answer.status_code == 404, answer.text
    # None of these requests changed anything.
    assert world.get(job)["adapter_id"] == adapter_id
    assert world.get(waiting)["status"] == "queued"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs",
        "/v1/datasets",
        "/v1/datasets/uploads",
        "/v1/datasets/imports",
        "/v1/adapters",
        "/v1/queue",
        "/v1/evaluations",
        "/v1/score/batches",
    ],
)
def test_lists_do_not_show_resources_of_another_tenant(
    world: World, client: TestClient, key_for: Callable[..., str], path: str
) -> None:
    world.know_base_model()
    world.submit()
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    waiting = world.submit()
    dataset = waiting["spec"]["train_dataset"]
    world.request_evaluation(adapters=[adapter_id], dataset=dataset)
    world.request_score_batch(adapter=adapter_id, dataset=dataset)
    client.post("/v1/datasets/uploads")
    client.post("/v1/datasets/imports", json={"source": "hub:acme/pairs"})
    assert client.get(path).json()["data"]
    assert client.get(path, headers=bearer(key_for("intruder"))).json()["data"] == []


def test_dataset_of_another_tenant_cannot_be_used(
    world: World, client: TestClient, key_for: Callable[..., str]
) -> None:
    answer = client.post("/v1/jobs", json=world.spec(), headers=bearer(key_for("intruder")))
    (error,) = answer.json()["errors"]
    assert (error["loc"], error["code"]) == ("/train_dataset", "dataset_not_found")


def test_secret_is_neither_logged_nor_stored(
    world: World, client: TestClient, engine: Engine, logged: io.StringIO
) -> None:
    created = client.post("/v1/api-keys", json={"name": "ci", "scopes": ["admin"]}).json()
    canary = created["secret"].split("_")[2]
    headers = bearer(created["secret"])
    client.get("/v1/jobs", headers=headers)
    client.get(f"/v1/jobs?name={canary}&limit=x", headers=headers)
    client.post("/v1/jobs", content=canary.encode(), headers=headers)
    client.get("/v1/jobs", headers=bearer(created["secret"][:-1] + "_"))
    assert '"path": "/v1/jobs"' in logged.getvalue()
    assert canary not in logged.getvalue()
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = connection.execute(text(f"SELECT * FROM {table.name}")).all()
            assert canary not in repr(rows), table.name


def test_first_key_of_an_embedded_service_is_in_a_private_file(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    token = service.first_key(engine, tmp_path)
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o600
    assert service.first_key(engine, tmp_path) == token
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/jobs", headers=bearer(token)).status_code == 200
    with transaction(engine) as session:
        session.execute(text("DELETE FROM api_keys"))
    assert service.first_key(engine, tmp_path) != token
