"""Requests made up from the OpenAPI document: no answer is a defect, each is as documented.

`PLAUDIT_FUZZ_CASES` is the number of cases an operation; `make fuzz` sets it and takes new seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

from app.auth.key_ring import Scope
from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.models import Job
from tests.api.world import BASE_MODEL, World

CASES = int(os.environ.get("PLAUDIT_FUZZ_CASES", "0"))
CASES_IN_SUITE = 55
#: Of each database; operations without anything to vary take one case and not CASES_IN_SUITE.
LEAST_ASKED = 2500
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
#: One part in so many has invalid data, and one in so many a made-up id.
WRONG = st.sampled_from([False, False, True])
FINISHED = "finished_job_id"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A service that lets webhooks go to this machine and nobody wait."""
    return Settings(
        database_url=database_url,  # type: ignore[arg-type]
        data_dir=tmp_path / "data",
        preflight_wait_seconds=0,
        rate_burst=1_000_000,
        quota_queued=1_000_000,
        webhook_allow_loopback=True,
    )


# Other threads of the service draw random numbers while Hypothesis does.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_every_answer_is_as_documented(
    app: FastAPI, client: TestClient, world: World, key_for: Callable[..., str]
) -> None:
    document = schemathesis.openapi.from_dict(app.openapi(), config=SchemathesisConfig())
    operations = [found.ok() for found in document.get_all_operations()]
    # What deletes comes last, and each of those starts with things to delete.
    order = ("get", "head", "patch", "post", "delete")
    operations.sort(key=lambda operation: order.index(operation.method.lower()))
    world.know_base_model()
    ids = seeded(world, key_for)
    failures: list[Exception] = []
    asked = 0
    for operation in operations:
        if operation.method.lower() == "delete":
            ids = seeded(world, key_for)
        try:
            asked += _hold(client, operation, ids)
        except Exception as failure:  # noqa: BLE001 - told below, with all others
            failure.add_note(f"while asking {operation.label}")
            failures.append(failure)
    if failures:
        raise ExceptionGroup("answers that the document does not know", failures)
    print(f"{asked} requests")
    assert asked >= LEAST_ASKED


def _hold(client: TestClient, operation: APIOperation, ids: dict[str, list[str]]) -> int:
    """Ask one operation in many ways; how many."""
    asked = 0

    @hypothesis.settings(
        max_examples=CASES or CASES_IN_SUITE,
        derandomize=not CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        nonlocal asked
        mode = GenerationMode.NEGATIVE if data.draw(WRONG) else GenerationMode.POSITIVE
        case = data.draw(operation.as_strategy(generation_mode=mode))
        _meet(case, ids, data)
        asked += 1
        _ask(client, case)

    holds()
    return asked


def seeded(world: World, key_for: Callable[..., str]) -> dict[str, list[str]]:
    """Ids that there are, by the name of their parameter: jobs in every state, and all the rest."""
    client = world.client

    def act(job: dict[str, Any], verb: str) -> None:
        assert client.post(f"/v1/jobs/{job['id']}/{verb}").status_code == 200

    with transaction(world.engine) as session:  # the made-up ones stay out of the way of these
        session.execute(update(Job).values(run_after=now_ms() + 86_400_000))
    dataset = world.upload()["id"]
    jobs = {}
    for state in ("succeeded", "failed", "running", "cancelled", "paused", "queued"):
        jobs[state] = world.submit(train_dataset=dataset, name=state, priority=50)
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
                act(jobs[state], "cancel")
            case "paused":
                act(jobs[state], "pause")
    for _ in range(2):
        key_for("acme", Scope.JOBS_READ)
    keys = client.get("/v1/api-keys?limit=2").json()["data"]
    hook = client.post("/v1/webhooks", json={"url": "http://localhost:9/hook"})
    return {
        "job_id": [job["id"] for job in jobs.values()],
        FINISHED: [jobs[state]["id"] for state in ("succeeded", "failed", "cancelled")],
        "dataset_id": [dataset, world.upload()["id"]],
        "adapter_id": [world.get(jobs["succeeded"])["adapter_id"]],
        "name": ["README.md", "adapter_config.json", "worst_pairs"],
        "key_id": [key["id"] for key in keys],  # the newest, never the one that asks
        "webhook_id": [hook.json()["id"]]
        if hook.status_code == 201
        else [],  # else there are as many
        # as there may be, which is an answer to be seen as well
        "base_model_id": [BASE_MODEL],
        "code": ["job_not_found", "invalid_spec"],
    }


def _meet(case: Case, ids: dict[str, list[str]], data: st.DataObject) -> None:
    """Let most cases reach something that exists, and none wait for what does not come."""
    for name in case.path_parameters or {}:
        if ids.get(name) and not data.draw(WRONG):
            case.path_parameters[name] = data.draw(st.sampled_from(ids[name]))
    is_spec = isinstance(case.body, dict) and "train_dataset" in case.body
    if is_spec and not data.draw(WRONG):
        case.body["train_dataset"] = ids["dataset_id"][0]
        case.body["base_model"] = BASE_MODEL
        if isinstance(case.body.get("eval_dataset"), str):
            case.body["eval_dataset"] = ids["dataset_id"][1]
    if case.operation.definition.raw["operationId"] == "get_job" and case.query:
        wait = case.query.get("wait")
        if isinstance(wait, int | float) and 0 < wait <= 60:
            case.query["wait"] = 0.01
    if case.operation.definition.raw["operationId"] == "list_events" and data.draw(st.booleans()):
        # A stream ends with its job, so only of jobs that ended.
        case.path_parameters["job_id"] = data.draw(st.sampled_from(ids[FINISHED]))
        case.headers = {**(case.headers or {}), "Accept": "text/event-stream"}


def _ask(client: TestClient, case: Case) -> None:
    asked = case.as_transport_kwargs(base_url="http://testserver")
    asked["headers"] = {**asked["headers"], "Authorization": client.headers["Authorization"]}
    body = asked.get("data")
    answer = client.request(
        asked["method"],
        asked["url"],
        params=asked.get("params"),
        headers=asked["headers"],
        json=asked.get("json"),
        content=body.encode() if isinstance(body, str) else body,
    )
    checks = list(CHECKS)
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        # The schema is that of the whole text, and would be held against each event.
        checks.remove(response_schema_conformance)
    case.validate_response(answer, checks=checks, headers=dict(asked["headers"]))
