"""A service that several tests share, and scenes of it: one new tenant for each test."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Response
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.domain.judging.score_table import ScoredRow
from app.job_queue.lease import WriteContext
from app.models import Job
from tests import services
from tests.api.documented import Operation
from tests.world import BASE_MODEL, World, pairs

ZEROES = "0" * 32
UNKNOWN = {
    "job_id": f"job_{ZEROES}",
    "dataset_id": f"ds_{ZEROES}",
    "adapter_id": f"ad_{ZEROES}",
    "key_id": f"key_{ZEROES}",
    "webhook_id": f"wh_{ZEROES}",
    "evaluation_id": f"eval_{ZEROES}",
    "batch_id": f"batch_{ZEROES}",
    "upload_id": f"up_{ZEROES}",
    "import_id": f"imp_{ZEROES}",
    "number": "1",
    "base_model_id": "no-such-model",
    "name": "worst_pairs",  # names a report; it could also name a file
    "code": "no_such_code",
}
QUERY = {
    "get_dataset_report": f"?base_model={BASE_MODEL}",
    "compare": f"?a=eval_{ZEROES}&b=eval_{ZEROES}",
    "get_comparison_page": f"?a=eval_{ZEROES}&b=eval_{ZEROES}",
}
BODIES: dict[str, dict[str, Any]] = {
    "create_job": {"base_model": BASE_MODEL, "train_dataset": f"ds_{ZEROES}"},
    "update_job": {"name": "new"},
    "create_evaluation": {"adapters": [f"ad_{ZEROES}"], "dataset": f"ds_{ZEROES}"},
    "create_api_key": {"name": "new", "scopes": ["jobs:read"]},
    "push_adapter": {"repo": "acme/rewards"},
    "create_scores": {"model": f"ad_{ZEROES}", "inputs": [{"text": "a"}]},
    "create_score_batch": {"adapter": f"ad_{ZEROES}", "dataset": f"ds_{ZEROES}"},
    "create_import": {"source": "hub:acme/pairs"},
    "create_webhook": {"url": "http://localhost:9/"},
}
#: Operations whose body is a file.
UPLOADS = ("create_dataset", "put_upload_part")
JSONL = {"Content-Type": "application/x-ndjson"}
FILES = {"adapter_config.json": b"{}"}


@dataclass
class Service:
    """A service for all tests of this module, and one on the same database with a rate limit."""

    client: TestClient
    limited: TestClient
    engine: Engine
    settings: Settings

    @property
    def app(self) -> FastAPI:
        app = self.client.app
        assert isinstance(app, FastAPI)
        return app


@contextmanager
def fresh_database(kind: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    """The URL of a migrated database for this module."""
    if kind == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), directory / "statuses.db")
        yield f"sqlite:///{directory / 'statuses.db'}"
        return
    server: str = request.getfixturevalue("postgres_server")
    with services.fresh_database(server, f"plaudit_{secrets.token_hex(4)}") as url:
        engine = make_engine(url)
        migrate(engine)
        engine.dispose()
        yield url


class Scene:
    """A new tenant of the service, and its resources."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.tenant_id = f"tenant-{secrets.token_hex(4)}"
        self.key = self.key_for(Scope.ADMIN)
        self.client = service.client
        self.client.headers["Authorization"] = f"Bearer {self.key}"
        self.world = World(service.client, service.engine, service.settings)

    def key_for(self, *scopes: Scope) -> str:
        """A key of this tenant."""
        with transaction(self.service.engine) as session:
            return api_keys.create(session, self.tenant_id, "a test", list(scopes)).token

    def send(self, operation: Operation, ids: dict[str, str] = UNKNOWN, **more: Any) -> Response:
        """Call an operation with a valid body."""
        client = more.pop("client", self.client)
        key = more.pop("key", self.key)
        query = more.pop("query", QUERY.get(operation.name, ""))
        more["headers"] = {"Authorization": f"Bearer {key}", **more.get("headers", {})}
        if operation.name in UPLOADS:
            more = {"content": b"not JSON", **more, "headers": {**JSONL, **more["headers"]}}
        elif operation.name in BODIES and "content" not in more:
            more = {"json": BODIES[operation.name], **more}
        url = operation.path.format(**ids) + query
        answer: Response = client.request(operation.method, url, **more)
        return answer

    def claim(self, job: dict[str, Any]) -> WriteContext:
        """Let a worker claim this job; the queue also has jobs of other tests."""
        queue = f"queue-{secrets.token_hex(4)}"
        with transaction(self.service.engine) as session:
            session.execute(update(Job).where(Job.id == job["id"]).values(queue=queue))
        return self.world.claim(queue)

    def submit(self) -> dict[str, Any]:
        """A queued job."""
        return self.world.submit()

    def succeed(self, **summary: Any) -> dict[str, Any]:
        """A job that succeeded, with an adapter."""
        job = self.submit()
        self.world.publish(self.claim(job), FILES, **summary)
        return self.world.get(job)

    def post(self, path: str, **more: Any) -> Response:
        """POST to a path below /v1."""
        answer: Response = self.client.post(f"/v1/{path}", **more)
        return answer

    def evaluation(self, **spec: Any) -> dict[str, Any]:
        """A queued evaluation of a new adapter."""
        adapter_id = self.succeed()["adapter_id"]
        return self.world.request_evaluation(
            **{"adapters": [adapter_id], "dataset": self.world.upload()["id"], **spec}
        )

    def evaluated(self, **spec: Any) -> dict[str, Any]:
        """An evaluation that succeeded."""
        found = self.evaluation(**spec)
        context = self.claim({"id": found["id"].replace("eval_", "job_")})
        rows = [ScoredRow(1, "p", (1, 2), (1.0, 0.0), (3, 4))]
        adapters = dict.fromkeys(found["adapters"], rows)
        self.world.publish_scores(context, {"base:untrained": rows, **adapters})
        return found

    def score_batch(self) -> dict[str, Any]:
        """A queued score batch."""
        spec = {"adapter": self.succeed()["adapter_id"], "dataset": self.world.upload()["id"]}
        return self.world.request_score_batch(**spec)

    def scored_batch(self) -> dict[str, Any]:
        """A score batch that succeeded."""
        found = self.score_batch()
        self.world.publish_batch(self.claim(found))
        return found

    def webhook_id(self) -> str:
        """The id of a webhook."""
        return str(self.post("webhooks", json=BODIES["create_webhook"]).json()["id"])

    def upload_id(self) -> str:
        """The id of an upload with one part."""
        upload_id = str(self.post("datasets/uploads").json()["id"])
        url = f"/v1/datasets/uploads/{upload_id}/parts/1"
        answer = self.client.put(url, content=pairs(3, upload_id), headers=JSONL)
        assert answer.status_code == 201, answer.text
        return upload_id

    def known_ids(self, operation: Operation) -> dict[str, str]:
        """Return an existing id for each path parameter of the operation."""
        make: dict[str, Callable[[], str]] = {
            "job_id": lambda: str(self.submit()["id"]),
            "dataset_id": lambda: str(self.world.upload()["id"]),
            "adapter_id": lambda: str(self.succeed()["adapter_id"]),
            "key_id": lambda: str(self.client.get("/v1/api-keys").json()["data"][0]["id"]),
            "webhook_id": self.webhook_id,
            "evaluation_id": lambda: str(self.evaluated()["id"]),
            "batch_id": lambda: str(self.scored_batch()["id"]),
            "base_model_id": lambda: BASE_MODEL,
            "upload_id": self.upload_id,
            "import_id": lambda: str(
                self.post("datasets/imports", json=BODIES["create_import"]).json()["id"]
            ),
            "number": lambda: "2" if operation.name == "put_upload_part" else "1",
            "code": lambda: "job_not_found",
            "name": lambda: "estimate" if "/reports/" in operation.path else next(iter(FILES)),
        }  # fmt: skip
        return {
            name: make[name]() for name, place in operation.parameters.items() if place == "path"
        }
