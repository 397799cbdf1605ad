"""Every operation can return each status that the OpenAPI document lists for it.

The tests share a service, and each has a tenant of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from app.core.database import make_engine
from app.core.settings import Settings
from app.main import create_app
from tests.api.documented import OPERATIONS, UNREAD, Operation
from tests.api.provoke import GENERAL, SPECIAL
from tests.api.scene import UNKNOWN, Scene, Service, fresh_database
from tests.world import World

#: Documented statuses that no test of this module provokes, each with its reason.
UNSEEN = {
    ("create_dataset", 408): "an upload that falls silent is waited for longer than a test lasts",
    ("put_upload_part", 408): "as create_dataset",
    ("create_scores", 200): "tests/scoring has a scorer",
    ("create_scores", 409): "tests/scoring has a scorer",
    ("create_scores", 429): "only wrong keys are limited",
}
GUARDED = [operation for operation in OPERATIONS if operation.needs_key]
DOCUMENTED = [(operation, status) for operation in OPERATIONS for status in operation.statuses]


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
            import_sources=frozenset({"hub:acme/*"}),
            push_targets=frozenset({"hub:acme/*"}),
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


@pytest.fixture
def scene(service: Service) -> Scene:
    return Scene(service)


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


# -- the content of errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [o for o in GUARDED if 422 in o.statuses and (o.parameters or o.has_body)],
    ids=str,
)
def test_malformed_ids_parameters_and_bodies_are_refused(
    scene: Scene, operation: Operation
) -> None:
    wrong = {"limit": "0", "job_id": "!", "on_invalid": "!", "days": "0"}
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
    assert answer.status_code == 422


@pytest.mark.parametrize("operation", [o for o in GUARDED if o.method != "HEAD"], ids=str)
def test_unknown_parameter_is_refused_and_the_known_ones_are_named(
    scene: Scene, operation: Operation
) -> None:
    answer = scene.send(operation, query="?stats=running")
    (error,) = answer.json()["errors"]
    assert (error["loc"], error["code"]) == ("/query/stats", "unknown_field")
    for name, place in operation.parameters.items():
        assert place != "query" or name in error["message"]
