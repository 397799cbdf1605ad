"""Requests generated from the OpenAPI document: every response must be documented and below 500.

`PLAUDIT_FUZZ_CASES` is the number of cases per operation; `make fuzz` sets it and uses new seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import update
from starlette.testclient import TestClient

from app.auth.scopes import Scope
from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.judging.score_table import ScoredRow
from app.domain.lifecycle import FailureCode
from app.job_queue import kinds
from app.models import Job
from tests.world import BASE_MODEL, World, pairs

CASES = int(os.environ.get("PLAUDIT_FUZZ_CASES", "0"))
CASES_IN_SUITE = 55
#: Minimum number of requests per database. Operations without variable input have a single case.
MIN_REQUESTS = 2500
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
#: One third of the cases have invalid data, and one third of the ids do not exist.
IS_WRONG = st.sampled_from([False, False, True])
FINISHED = "finished_job_id"
#: Operations that make their resources unusable for other operations.
USES_UP = ("POST /v1/datasets/uploads/{upload_id}/finish",)
STATES = ("succeeded", "failed", "running", "cancelled", "paused", "queued")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that allow webhooks to this machine, and any number of waiting jobs."""
    return settings.model_copy(update={"quota_queued": 1_000_000, "webhook_allow_loopback": True})


# Other threads of the service use the random module while Hypothesis runs.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_every_response_is_documented(
    app: FastAPI, client: TestClient, world: World, key_for: Callable[..., str]
) -> None:
    document = schemathesis.openapi.from_dict(app.openapi(), config=SchemathesisConfig())
    operations = [found.ok() for found in document.get_all_operations()]
    # Operations that delete come last. New resources are created before each of them.
    order = ("get", "head", "patch", "put", "post", "delete")
    operations.sort(key=lambda operation: order.index(operation.method.lower()))
    world.know_base_model()
    ids = make_resources(world, key_for)
    failures: list[Exception] = []
    requests = 0
    for operation in operations:
        if operation.method.lower() == "delete" or operation.label in USES_UP:
            ids = make_resources(world, key_for)
        try:
            requests += _check_operation(client, operation, ids)
        except Exception as failure:  # noqa: BLE001 - raised below, together with all others
            failure.add_note(f"in {operation.label}")
            failures.append(failure)
    if failures:
        raise ExceptionGroup("undocumented responses", failures)
    print(f"{requests} requests")
    assert requests >= MIN_REQUESTS


def _check_operation(client: TestClient, operation: APIOperation, ids: dict[str, list[str]]) -> int:
    """Check one operation with generated requests and return their number."""
    requests = 0

    @hypothesis.settings(
        max_examples=CASES or CASES_IN_SUITE,
        derandomize=not CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        nonlocal requests
        mode = GenerationMode.NEGATIVE if data.draw(IS_WRONG) else GenerationMode.POSITIVE
        case = data.draw(operation.as_strategy(generation_mode=mode))
        _use_existing_ids(case, ids, data)
        requests += 1
        _send_and_validate(client, case)

    check()
    return requests


def make_resources(world: World, key_for: Callable[..., str]) -> dict[str, list[str]]:
    """Create resources of every kind; return their ids by the name of the path parameter."""
    client = world.client
    with transaction(world.engine) as session:  # so that claims find the jobs created here
        session.execute(update(Job).values(run_after=now_ms() + 86_400_000))
    dataset = world.upload()["id"]
    jobs = {state: make_job(world, dataset, state) for state in STATES}
    for _ in range(2):
        key_for("acme", Scope.JOBS_READ)
    keys = client.get("/v1/api-keys?limit=2").json()["data"]
    # The quota of webhooks may be exhausted by then.
    hook = client.post("/v1/webhooks", json={"url": "http://localhost:9/hook"})
    evaluations = [make_evaluation(world, is_scored=True), make_evaluation(world, is_scored=False)]
    return {
        "job_id": [job["id"] for job in jobs.values()],
        FINISHED: [jobs[state]["id"] for state in ("succeeded", "failed", "cancelled")],
        "dataset_id": [dataset, world.upload()["id"]],
        "adapter_id": [world.get(jobs["succeeded"])["adapter_id"]],
        "name": ["README.md", "adapter_config.json", "worst_pairs"],
        "key_id": [key["id"] for key in keys],  # the newest ones, not the client's own
        "webhook_id": [hook.json()["id"]] if hook.status_code == 201 else [],
        "evaluation_id": evaluations,
        "upload_id": make_uploads(client),
        "number": ["1", "2"],
        "import_id": [
            client.post("/v1/datasets/imports", json={"source": "hub:acme/pairs"}).json()["id"]
        ],
        "base_model_id": [BASE_MODEL],
        "code": ["job_not_found", "invalid_spec"],
    }


def make_job(world: World, dataset_id: str, state: str) -> dict[str, Any]:
    """Create a job in a state."""
    job = world.submit(train_dataset=dataset_id, name=state, priority=50)
    match state:
        case "succeeded":
            lease = world.claim()
            world.step(lease, 1, train__loss=0.7)
            world.checkpoint(lease, 1)
            world.publish(lease, {"adapter_config.json": b"{}", "README.md": b"# Card"})
        case "failed":
            world.fail(world.claim(), FailureCode.NAN_LOSS, "The loss was not finite.")
        case "running":
            world.claim()
        case "cancelled":
            assert world.client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
        case "paused":
            assert world.client.post(f"/v1/jobs/{job['id']}/pause").status_code == 200
    return job


def make_evaluation(world: World, *, is_scored: bool) -> str:
    """Create an evaluation, which has succeeded or waits, and return its id."""
    evaluation = world.request_evaluation()
    if is_scored:
        rows = [ScoredRow(1, "p", (1, 2), (1.0, 0.0), (3, 4))]
        tables = dict.fromkeys(["base:untrained", *evaluation["adapters"]], rows)
        world.publish_scores(world.claim(kinds.EVALUATE.queue(world.settings)), tables)
    return str(evaluation["id"])


def make_uploads(client: TestClient) -> list[str]:
    """Create two uploads with one part each, if there is a place for them; return their ids."""
    answers = [client.post("/v1/datasets/uploads") for _ in range(2)]
    ids = [str(answer.json()["id"]) for answer in answers if answer.status_code == 201]
    for upload_id in ids:
        url = f"/v1/datasets/uploads/{upload_id}/parts/1"
        part = client.put(url, content=pairs(3), headers={"Content-Type": "application/x-ndjson"})
        assert part.status_code == 201, part.text
    return ids


def _use_existing_ids(case: Case, ids: dict[str, list[str]], data: st.DataObject) -> None:
    """Make most cases use existing ids, and let none of them wait for a change."""
    for name in case.path_parameters or {}:
        if ids.get(name) and not data.draw(IS_WRONG):
            case.path_parameters[name] = data.draw(st.sampled_from(ids[name]))
    is_spec = isinstance(case.body, dict) and "train_dataset" in case.body
    if is_spec and not data.draw(IS_WRONG):
        case.body["train_dataset"] = ids["dataset_id"][0]
        case.body["base_model"] = BASE_MODEL
        if isinstance(case.body.get("eval_dataset"), str):
            case.body["eval_dataset"] = ids["dataset_id"][1]
    if case.operation.definition.raw["operationId"] == "get_job" and case.query:
        wait = case.query.get("wait")
        if isinstance(wait, int | float) and 0 < wait <= 60:
            case.query["wait"] = 0.01
    if case.operation.definition.raw["operationId"] == "list_events" and data.draw(st.booleans()):
        # A stream ends with its job, so use a finished one.
        case.path_parameters["job_id"] = data.draw(st.sampled_from(ids[FINISHED]))
        case.headers = {**(case.headers or {}), "Accept": "text/event-stream"}


def _send_and_validate(client: TestClient, case: Case) -> None:
    request = case.as_transport_kwargs(base_url="http://testserver")
    request["headers"] = {**request["headers"], "Authorization": client.headers["Authorization"]}
    body = request.get("data")
    try:
        answer = client.request(
            request["method"],
            request["url"],
            params=request.get("params"),
            headers=request["headers"],
            json=request.get("json"),
            content=body.encode() if isinstance(body, str) else body,
        )
    except httpx2.InvalidURL:  # longer than what the client can send
        hypothesis.reject()
    checks = list(CHECKS)
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        # The documented schema describes the whole text; Schemathesis would check each event.
        checks.remove(response_schema_conformance)
    case.validate_response(answer, checks=checks, headers=dict(request["headers"]))
