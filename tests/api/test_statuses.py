"""Every operation answers with each status that the OpenAPI document names for it.

The test is parametrized over the document. Each status of an operation is provoked by its entry in
``SPECIAL``, else by the entry of ``GENERAL`` for the status; the tests share a service and each has
a tenant of its own.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fastapi import FastAPI
from httpx import Response
from pydantic import SecretStr
from sqlalchemy import Engine, event, update
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.key_ring import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import Progress
from app.main import create_app
from app.models import Job
from tests import services
from tests.api.documented import OPERATIONS, UNREAD, Operation
from tests.api.world import BASE_MODEL, World, claim_when_there

#: Documented statuses that no test of this module provokes, each with its reason.
UNSEEN = {
    ("create_dataset", 408): "an upload that falls silent is waited for longer than a test lasts",
}
ZEROES = "0" * 32
UNKNOWN = {
    "job_id": f"job_{ZEROES}",
    "dataset_id": f"ds_{ZEROES}",
    "adapter_id": f"ad_{ZEROES}",
    "key_id": f"key_{ZEROES}",
    "webhook_id": f"wh_{ZEROES}",
    "base_model_id": "no-such-model",
    "name": "worst_pairs",  # names a report, and could name a file
    "code": "no_such_code",
}
QUERY = {"get_dataset_report": f"?base_model={BASE_MODEL}"}
BODIES: dict[str, dict[str, Any]] = {
    "create_job": {"base_model": BASE_MODEL, "train_dataset": f"ds_{ZEROES}"},
    "update_job": {"name": "new"},
    "create_api_key": {"name": "new", "scopes": ["jobs:read"]},
    "create_webhook": {"url": "http://localhost:9/"},
}
JSONL = {"Content-Type": "application/x-ndjson"}
FILES = {"adapter_config.json": b"{}"}
GUARDED = [operation for operation in OPERATIONS if operation.needs_key]


# -- the service and one tenant of it ----------------------------------------------------------


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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service on a database of its own."""
    directory = tmp_path_factory.mktemp("statuses")
    with ExitStack() as stack:
        settings = Settings(
            database_url=stack.enter_context(fresh_database(request.param, request, directory)),  # type: ignore[arg-type]
            data_dir=directory,
            preflight_wait_seconds=0,
            rate_burst=1_000_000,
            failed_logins_per_minute=1_000_000,
            webhook_allow_loopback=True,
        )
        limits = {"rate_burst": 1, "rate_per_second": 1e-6}
        engine = make_engine(settings.database)
        stack.callback(engine.dispose)
        client = stack.enter_context(
            TestClient(create_app(settings), raise_server_exceptions=False)
        )
        limited = stack.enter_context(TestClient(create_app(settings.model_copy(update=limits))))
        World(client, engine, settings).know_base_model()
        yield Service(client, limited, engine, settings)


class Scene:
    """A fresh tenant of the service, and what it owns."""

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
        if operation.name == "create_dataset":
            more = {"content": b"not JSON", **more, "headers": {**JSONL, **more["headers"]}}
        elif operation.name in BODIES and "content" not in more:
            more = {"json": BODIES[operation.name], **more}
        url = operation.path.format(**ids) + query
        answer: Response = client.request(operation.method, url, **more)
        return answer

    def claim(self, job: dict[str, Any]) -> WriteContext:
        """A worker takes this job; the queue has jobs of other tests as well."""
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

    def webhook_id(self) -> str:
        """The id of a webhook."""
        return str(self.post("webhooks", json=BODIES["create_webhook"]).json()["id"])

    def known_ids(self, operation: Operation) -> dict[str, str]:
        """An id of something that exists for each path parameter of the operation."""
        make: dict[str, Callable[[], str]] = {
            "job_id": lambda: str(self.submit()["id"]),
            "dataset_id": lambda: str(self.world.upload()["id"]),
            "adapter_id": lambda: str(self.succeed()["adapter_id"]),
            "key_id": lambda: str(self.client.get("/v1/api-keys").json()["data"][0]["id"]),
            "webhook_id": self.webhook_id,
            "base_model_id": lambda: BASE_MODEL,
            "code": lambda: "job_not_found",
            "name": lambda: "estimate" if "/reports/" in operation.path else next(iter(FILES)),
        }  # fmt: skip
        return {
            name: make[name]() for name, place in operation.parameters.items() if place == "path"
        }


@pytest.fixture
def scene(service: Service) -> Scene:
    return Scene(service)


Provoke = Callable[[Scene, Operation], Response]


# -- statuses that operations have in common ---------------------------------------------------


def send_for_known_ids(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, scene.known_ids(operation))


def send_for_unknown_ids(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation)


def send_without_key(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, key="")


def send_without_the_scope(scene: Scene, operation: Operation) -> Response:
    """Of the keys with one scope other than admin, the first that is refused."""
    keys = [scene.key_for(scope) for scope in Scope if scope != Scope.ADMIN]
    answers = [scene.send(operation, key=key) for key in keys]
    return min(answers, key=lambda answer: answer.status_code != 403)


def send_unknown_parameter(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, query="?no_such_parameter=1")


def send_too_often(scene: Scene, operation: Operation) -> Response:
    limited = scene.service.limited
    headers = {"Authorization": f"Bearer {scene.key}"}
    assert limited.get("/v1/jobs", headers=headers).status_code == 200
    return scene.send(operation, client=limited)


def send_large_body(scene: Scene, operation: Operation) -> Response:
    size = 2 << 20
    if operation.name == "create_dataset":
        size = scene.service.settings.max_upload_bytes + 1
    headers = {"Content-Length": str(size)}
    if operation.name != "create_dataset":
        headers["Content-Type"] = "application/json"
    return scene.send(operation, content=b"{", headers=headers)


@contextmanager
def failing_database(scene: Scene, error: Exception) -> Iterator[None]:
    """Let every statement of the service fail with this error."""

    def fail(*_: Any) -> NoReturn:
        raise OperationalError("SELECT", {}, error)

    assert scene.client.get("/v1/jobs").status_code == 200  # the key is known from here on
    engines = (scene.service.app.state.engine, scene.service.app.state.reader)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", fail)


def send_without_database(scene: Scene, operation: Operation) -> Response:
    with failing_database(scene, Exception("the database is away")):
        return scene.send(operation, UNKNOWN | {"base_model_id": BASE_MODEL})


def send_range(value: str) -> Provoke:
    def send(scene: Scene, operation: Operation) -> Response:
        return scene.send(operation, scene.known_ids(operation), headers={"Range": value})

    return send


def send_known_etag(scene: Scene, operation: Operation) -> Response:
    ids = scene.known_ids(operation)
    tag = scene.send(operation, ids).headers["ETag"]
    return scene.send(operation, ids, headers={"If-None-Match": tag})


GENERAL: dict[int, Provoke] = {
    200: send_for_known_ids,
    201: send_for_known_ids,
    202: send_for_known_ids,
    204: send_for_known_ids,
    206: send_range("bytes=0-0"),
    304: send_known_etag,
    401: send_without_key,
    403: send_without_the_scope,
    404: send_for_unknown_ids,
    413: send_large_body,
    416: send_range("bytes=999999999-"),
    422: send_unknown_parameter,
    429: send_too_often,
    503: send_without_database,
}


# -- statuses that need more -------------------------------------------------------------------


def send_spec(query: str = "") -> Provoke:
    return lambda scene, operation: scene.send(operation, json=scene.world.spec(), query=query)


def send_for_job(make: Callable[[Scene], dict[str, Any]], **more: Any) -> Provoke:
    """Send for the job that ``make`` gives."""
    return lambda scene, operation: scene.send(
        operation, {**UNKNOWN, "job_id": make(scene)["id"]}, **more
    )


def submitted(scene: Scene) -> dict[str, Any]:
    return scene.submit()


def succeeded(scene: Scene) -> dict[str, Any]:
    return scene.succeed()


def running(scene: Scene) -> dict[str, Any]:
    job = scene.submit()
    scene.claim(job)
    return job


def cancelled(scene: Scene) -> dict[str, Any]:
    job = scene.submit()
    assert scene.post(f"jobs/{job['id']}/cancel").status_code == 200
    return job


def cancelling(scene: Scene) -> dict[str, Any]:
    job = running(scene)
    assert scene.post(f"jobs/{job['id']}/cancel").json()["status"] == "cancelling"
    return job


def resume_stream_of_finished_job(scene: Scene, operation: Operation) -> Response:
    job = cancelled(scene)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1000"}
    return scene.send(operation, {"job_id": job["id"]}, headers=headers)


def report_with_a_worker(scene: Scene, operation: Operation) -> Response:
    """A service that waits for inspections, and a worker that makes this one."""
    settings = scene.service.settings
    patient = settings.model_copy(
        update={"preflight_wait_seconds": 30, "queue": f"queue-{secrets.token_hex(4)}"}
    )
    world = World(scene.client, scene.service.engine, patient)
    ids = scene.known_ids(operation)

    def inspect() -> None:
        lease = claim_when_there(world)
        report = Reported(name="dataset", document={"rows": 20})
        worker_api.record_progress(lease, Progress(reports=[report]))
        worker_api.complete(lease, {})

    worker = threading.Thread(target=inspect)
    worker.start()
    try:
        with TestClient(create_app(patient)) as client:
            return scene.send(operation, ids, client=client)
    finally:
        worker.join()


def upload(*contents: bytes, **headers: str) -> Provoke:
    """Upload these, one after the other."""

    def send(scene: Scene, operation: Operation) -> Response:
        answers = [scene.send(operation, content=c, headers=headers) for c in contents]
        return answers[-1]

    return send


def upload_to_full_disk(scene: Scene, operation: Operation) -> Response:
    with failing_database(scene, OSError(errno.ENOSPC, "no space left")):
        return scene.send(operation, content=PAIR % b"another")


def delete_used_dataset(scene: Scene, operation: Operation) -> Response:
    job = scene.submit()
    return scene.send(operation, {"dataset_id": job["spec"]["train_dataset"]})


def merge_merged(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, {"adapter_id": scene.succeed(is_merged=True)["adapter_id"]})


def get_merge(scene: Scene, operation: Operation) -> Response:
    ids = scene.known_ids(operation)
    assert scene.post(f"adapters/{ids['adapter_id']}/merge").status_code == 202
    return scene.send(operation, ids)


def scrape_protected_metrics(scene: Scene, operation: Operation) -> Response:
    settings = scene.service.settings.model_copy(update={"metrics_token": SecretStr("x" * 32)})
    with TestClient(create_app(settings)) as client:
        return scene.send(operation, client=client)


def ask_service_without_database(scene: Scene, operation: Operation) -> Response:
    settings = scene.service.settings.model_dump(exclude={"database_url"}) | {
        "database_url": "postgresql+psycopg://postgres@127.0.0.1:1/x"
    }
    with TestClient(create_app(Settings(**settings))) as client:
        return scene.send(operation, client=client)


PAIR = b'{"prompt": "q", "chosen": "%s", "rejected": "no"}\n'
SPECIAL: dict[tuple[str, int], Provoke] = {
    ("metrics", 401): scrape_protected_metrics,
    ("readiness", 503): ask_service_without_database,
    ("create_job", 200): send_spec("?dry_run=true"),
    ("create_job", 201): send_spec(),
    ("clone_job", 409): send_for_job(submitted, json={"from_checkpoint": True}),
    ("update_job", 409): send_for_job(running, json={"priority": 1}),
    ("delete_job", 204): send_for_job(cancelled),
    ("delete_job", 409): send_for_job(submitted),
    ("cancel_job", 409): send_for_job(succeeded),
    ("pause_job", 409): send_for_job(succeeded),
    ("resume_job", 409): send_for_job(cancelling),
    ("list_events", 204): resume_stream_of_finished_job,
    ("get_dataset_report", 200): report_with_a_worker,
    ("create_dataset", 200): upload(PAIR % b"same", PAIR % b"same"),
    ("create_dataset", 201): upload(PAIR % b"new"),
    ("create_dataset", 415): upload(b"<pair/>", **{"Content-Type": "text/xml"}),
    ("create_dataset", 507): upload_to_full_disk,
    ("delete_dataset", 409): delete_used_dataset,
    ("merge_adapter", 409): merge_merged,
    ("get_merge", 200): get_merge,
}
DOCUMENTED = [(operation, status) for operation in OPERATIONS for status in operation.statuses]


@pytest.mark.parametrize(
    ("operation", "status"),
    [(o, status) for o, status in DOCUMENTED if (o.name, status) not in UNSEEN],
    ids=str,
)
def test_operation_answers_with_this_documented_status(
    scene: Scene, operation: Operation, status: int
) -> None:
    provoke = SPECIAL.get((operation.name, status)) or GENERAL.get(status)
    assert provoke, f"nothing provokes {status} of {operation.name}: add it to SPECIAL"
    answer = provoke(scene, operation)
    assert answer.status_code == status, answer.text


def test_tables_name_documented_statuses_only() -> None:
    documented = {(operation.name, status) for operation, status in DOCUMENTED}
    assert SPECIAL.keys() | UNSEEN.keys() <= documented
    assert not SPECIAL.keys() & UNSEEN.keys()
    routes = {(o.method, o.path, status) for o, status in DOCUMENTED}
    assert not routes & UNREAD.keys()


# -- what a refusal says -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [o for o in GUARDED if 422 in o.statuses and (o.parameters or o.has_body)],
    ids=str,
)
def test_malformed_ids_parameters_and_bodies_are_refused(
    scene: Scene, operation: Operation
) -> None:
    wrong = {"limit": "0", "job_id": "!"}
    query = "&".join(
        f"{name}={wrong[name]}" for name in wrong if operation.parameters.get(name) == "query"
    )
    answer = scene.send(
        operation,
        dict.fromkeys(UNKNOWN, "!"),
        query=f"?{query}",
        content=b"{",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == (415 if operation.name == "create_dataset" else 422)


@pytest.mark.parametrize("operation", [o for o in GUARDED if o.method != "HEAD"], ids=str)
def test_unknown_parameter_is_refused_and_the_known_ones_are_named(
    scene: Scene, operation: Operation
) -> None:
    answer = scene.send(operation, query="?stats=running")
    (error,) = answer.json()["errors"]
    assert (error["loc"], error["code"]) == ("/query/stats", "unknown_field")
    for name, place in operation.parameters.items():
        assert place != "query" or name in error["message"]
