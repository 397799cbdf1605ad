"""The generated documents are up to date and complete."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.core.errors import ServiceError
from app.web.problem_details import MEDIA_TYPE, STATUSES, problem_types, status_of, subclasses
from docs import reference


def operations(app: FastAPI) -> dict[tuple[str, str], dict[str, Any]]:
    """Return every documented operation by method and path."""
    return {
        (method.upper(), path): operation
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }


def test_openapi_file_is_up_to_date() -> None:
    written = (reference.HERE / "openapi.json").read_text()
    assert written == reference.openapi_text(), "run `make openapi`"


def test_errors_page_is_up_to_date() -> None:
    written = (reference.HERE / "errors.md").read_text()
    assert written == reference.errors_text(), "run `make openapi`"


def test_data_page_is_what_the_code_says() -> None:
    written = (reference.HERE / "data.md").read_text()
    assert written == reference.data_text(), "run `make openapi`"


def test_every_operation_has_a_unique_name_and_a_description(app: FastAPI) -> None:
    found = operations(app)
    names = Counter(operation["operationId"] for operation in found.values())
    assert [name for name, count in names.items() if count > 1] == []
    for where, operation in found.items():
        assert operation["summary"], where
        assert operation["description"], where
        for parameter in operation.get("parameters", []):
            assert "schema" in parameter, where


def test_every_error_response_is_documented_as_a_problem(app: FastAPI) -> None:
    for where, operation in operations(app).items():
        for status, answer in operation["responses"].items():
            if status >= "400" and where != ("GET", "/readyz"):
                assert list(answer["content"]) == [MEDIA_TYPE], (where, status)


def test_every_json_body_has_an_example(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for where, operation in operations(app).items():
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        schema = content["application/json"]["schema"]
        for choice in schema.get("anyOf", [schema]):
            if "$ref" in choice:
                body = schemas[choice["$ref"].rpartition("/")[2]]
                parts = [body, *body["properties"].values()]
                assert any(part.get("examples") for part in parts), (where, choice)


def test_type_of_a_problem_is_the_url_of_its_explanation(anonymous: TestClient) -> None:
    refusal = anonymous.get("/v1/jobs").json()
    explained = anonymous.get(refusal["type"].removeprefix("http://127.0.0.1:8000"))
    assert explained.status_code == 200
    assert explained.json()["code"] == "unauthorized" == refusal["code"]
    assert explained.json()["next_step"]
    assert anonymous.get("/problems/nothing").json()["code"] == "not_found"


def test_every_error_class_has_one_status() -> None:
    for error in subclasses(ServiceError):
        families = [family for family in error.__mro__ if family in STATUSES]
        listed = families[:-1]  # the last one is ServiceError
        assert len(listed) <= 1, f"{error.__name__} belongs to {listed}"
        assert status_of(error) == STATUSES[families[0]]
        # Only unexpected errors and errors that no client gets have no family of their own.
        assert listed or error is ServiceError or not error.is_public, error.__name__


def test_every_status_in_the_table_is_used() -> None:
    used = {status_of(error) for error in subclasses(ServiceError) if error.is_public}
    assert used == set(STATUSES.values())


def test_every_problem_type_is_explained() -> None:
    codes = Counter(problem.code for problem in problem_types())
    assert max(codes.values()) == 1
    assert {"internal", "job_not_found", "rate_limited", "method_not_allowed"} <= codes.keys()
    assert not codes.keys() & {"bad_catalogue", "hub_unavailable"}  # never sent to clients
    for problem in problem_types():
        assert problem.when, problem.code
        assert problem.next_step, problem.code
