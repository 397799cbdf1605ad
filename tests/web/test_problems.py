"""All errors have the same format, independently of their source."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from app.web.problem_details import Problem
from app.web.validation_errors import field_problems
from tests.world import World

SPEC = {"base_model": "all-minilm-l6-v2", "train_dataset": "ds_" + "0" * 32}


def problem_of(answer: Any, status: int) -> Problem:
    """Return the response as a problem, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert problem.status == status
    assert problem.request_id == answer.headers["x-request-id"]
    assert problem.type.endswith(f"/problems/{problem.code}")
    return problem


def test_unknown_path_is_a_problem(client: TestClient) -> None:
    assert problem_of(client.get("/v1/nothing"), 404).code == "not_found"


def test_wrong_method_is_a_problem_with_the_allowed_ones(client: TestClient) -> None:
    answer = client.put("/v1/jobs")
    assert problem_of(answer, 405).code == "method_not_allowed"
    assert answer.headers["allow"] == "GET, POST"
    answer = client.post(f"/v1/adapters/ad_{'0' * 32}/archive")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("page", ["/", "/docs", "/static/main.js"])
def test_pages_allow_get_only(client: TestClient, page: str) -> None:
    assert client.post(page).headers["allow"] == "GET"


def test_validation_error_points_into_the_body(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=SPEC | {"lora": {"r": 0}, "colour": "red"})
    problem = problem_of(answer, 422)
    assert {(e.loc, e.code) for e in problem.errors} == {
        ("/lora/r", "out_of_range"),
        ("/colour", "unknown_field"),
    }


@pytest.mark.parametrize(
    ("fields", "loc", "code"),
    [
        ({"eval_dataset": {"fraction": 0}}, "/eval_dataset/fraction", "out_of_range"),
        ({"eval_dataset": {"fractoin": 0.1}}, "/eval_dataset/fractoin", "unknown_field"),
        ({"eval_dataset": {}}, "/eval_dataset/fraction", "missing"),
        ({"eval_dataset": 0.1}, "/eval_dataset", "eval_dataset_form"),
        ({"lora": {"target_modules": "q_proj"}}, "/lora/target_modules", "not_one_of"),
        ({"lora": {"target_modules": ["a", 5]}}, "/lora/target_modules/1", "string_type"),
        ({"metadata": {"a b": "x"}}, "/metadata/a b", "bad_pattern"),
        ({"training": {"max_stepz": 1}}, "/training/max_stepz", "unknown_field"),
    ],
)
def test_pointer_names_the_field_of_the_intended_type(
    client: TestClient, job: dict[str, Any], fields: dict[str, Any], loc: str, code: str
) -> None:
    for path, body in (
        ("/v1/jobs", SPEC | fields),
        (f"/v1/jobs/{job['id']}/clone", {"overrides": fields}),
    ):
        problem = problem_of(client.post(path, json=body), 422)
        assert (problem.errors[0].loc, problem.errors[0].code) == (loc, code)
        assert all(error.loc.startswith(loc.rpartition("/")[0]) for error in problem.errors)


@pytest.mark.parametrize("value", [0.1, True, ["ds_1"], "0.1", "10%", "ds_1"])
def test_eval_dataset_of_no_known_form_is_told_both_forms_once(
    client: TestClient, value: object
) -> None:
    problem = problem_of(client.post("/v1/jobs", json=SPEC | {"eval_dataset": value}), 422)
    (error,) = problem.errors
    assert error.loc == "/eval_dataset"
    assert "id" in error.message
    assert '{"fraction": 0.1}' in error.hint


@pytest.mark.parametrize(
    ("fields", "loc", "hint"),
    [
        ({"rank": 8}, "/rank", "Use /lora/r, "),
        ({"lora": {"rank": 8}}, "/lora/rank", "Use /lora/r, "),
        ({"lora": {"lora_alpha": 8}}, "/lora/lora_alpha", "Use /lora/alpha, "),
        ({"alpha": 8}, "/alpha", 'as in {"lora": {"alpha": …}}'),
        ({"lr": 1e-4}, "/lr", "Use /training/learning_rate, "),
        ({"training": {"lr": 1e-4}}, "/training/lr", "Use /training/learning_rate, "),
        ({"learning_rate": 1e-4}, "/learning_rate", "Use /training/learning_rate, "),
        ({"num_train_epochs": 1}, "/num_train_epochs", "Use /training/epochs, "),
        (
            {"training": {"per_device_train_batch_size": 8}},
            "/training/per_device_train_batch_size",
            "Use /training/per_device_batch_size, ",
        ),
        ({"load_in_4bit": True}, "/load_in_4bit", 'as in {"quantization": "4bit"}'),
        ({"trust_remote_code": True}, "/trust_remote_code", "never runs code"),
        ({"eval_dataset": {"split": 0.1}}, "/eval_dataset/split", "Use /eval_dataset/fraction, "),
        ({"eval_dataset": {"id": "ds_1"}}, "/eval_dataset/id", 'as in {"eval_dataset": "ds_…"}'),
        ({"max_sequense_length": 8}, "/max_sequense_length", "Use /training/max_length, "),
    ],
)
def test_name_of_another_tool_leads_to_the_field_of_the_spec(
    client: TestClient, job: dict[str, Any], fields: dict[str, Any], loc: str, hint: str
) -> None:
    for path, body in (
        ("/v1/jobs", SPEC | fields),
        (f"/v1/jobs/{job['id']}/clone", {"overrides": fields}),
    ):
        (error,) = problem_of(client.post(path, json=body), 422).errors
        assert (error.loc, error.code) == (loc, "unknown_field")
        assert hint in error.hint


def test_field_under_another_name_is_not_also_called_missing(client: TestClient) -> None:
    body = {"model": "qwen3-0.6b", "dataset": SPEC["train_dataset"]}
    problem = problem_of(client.post("/v1/jobs", json=body), 422)
    assert {error.loc: error.hint.partition(",")[0] for error in problem.errors} == {
        "/model": "Use /base_model",
        "/dataset": "Use /train_dataset",
    }


def test_names_of_other_tools_mean_nothing_outside_of_a_spec(client: TestClient) -> None:
    body = {"url": "https://example.com", "lr": 1}
    (error,) = problem_of(client.post("/v1/webhooks", json=body), 422).errors
    assert (error.loc, error.code) == ("/lr", "unknown_field")
    assert "learning_rate" not in error.hint


def test_repository_of_the_hub_leads_to_the_entry_of_the_catalogue(
    world: World, client: TestClient
) -> None:
    spec = world.spec() | {"base_model": "Qwen/Qwen3-0.6B"}
    problem = problem_of(client.post("/v1/jobs", json=spec), 422)
    (error,) = problem.errors
    assert (error.loc, error.code) == ("/base_model", "base_model_not_found")
    assert error.hint == "Did you mean qwen3-0.6b?"
    report = f"/v1/datasets/{spec['train_dataset']}/report?base_model=Qwen/Qwen3-0.6B"
    assert problem_of(client.get(report), 422).hint == "Did you mean qwen3-0.6b?"
    unknown = problem_of(client.get("/v1/base-models/qwen-3-0.6b"), 404)
    assert str(unknown.hint).startswith("Similar ids are: qwen3-0.6b, ")


def test_head_of_another_model_is_told_that_the_head_is_always_saved(
    world: World, client: TestClient
) -> None:
    world.know_base_model()
    spec = world.spec(lora={"modules_to_save": ["score"]})
    (error,) = problem_of(client.post("/v1/jobs", json=spec), 422).errors
    assert (error.loc, error.code) == ("/lora/modules_to_save/0", "head_always_saved")
    assert "classifier" in error.message
    assert "always trained and saved" in error.hint


def test_no_message_shows_a_regular_expression(app: FastAPI) -> None:
    """Every pattern of the document has a description."""

    def patterns(node: Any) -> set[str]:
        if isinstance(node, list):
            return {found for item in node for found in patterns(item)}
        if not isinstance(node, dict):
            return set()
        own = {node["pattern"]} if isinstance(node.get("pattern"), str) else set()
        own |= set(node.get("propertyNames", {}).get("pattern", "").split())
        return own | patterns(list(node.values()))

    found = patterns(app.openapi())
    assert len(found) > 10
    for pattern in found:
        error = {"loc": ("query", "x"), "type": "string_pattern_mismatch", "msg": pattern}
        (problem,) = field_problems([error | {"ctx": {"pattern": pattern}}], None)
        assert pattern not in problem.message


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"trainning": {}}, "known fields: base_model", "Did you mean training?"),
        ({"training": {"max_stepz": 1}}, "max_steps", "Did you mean max_steps?"),
        ({"eval_dataset": {"fractoin": 1}}, "known fields: fraction", "Did you mean fraction?"),
        ({"training": {"early_stopping": {"zeal": 1}}}, "monitored_dataset, patience", "Remove it"),
        ({"train_dataset": "ds_1"}, "ds_ followed by 32 hex digits", "Copy the id"),
        ({"eval_dataset": "ds_1"}, "ds_ followed by 32 hex digits", "Copy the id"),
    ],
)
def test_error_for_an_unknown_field_or_id_has_a_precise_hint(
    client: TestClient, fields: dict[str, Any], message: str, hint: str
) -> None:
    problem = problem_of(client.post("/v1/jobs", json=SPEC | fields), 422)
    (error,) = [e for e in problem.errors if message in e.message]
    assert hint in error.hint


def test_spec_fields_outside_of_overrides_have_a_hint(
    client: TestClient, job: dict[str, Any]
) -> None:
    clone = f"/v1/jobs/{job['id']}/clone"
    for name, hint in (("training", "Put parts of a spec into"), ("overides", "mean overrides?")):
        (error,) = problem_of(client.post(clone, json={name: {}}), 422).errors
        assert (error.loc, error.code) == (f"/{name}", "unknown_field")
        assert hint in error.hint


def test_invalid_id_in_a_path_has_a_precise_message(client: TestClient) -> None:
    (error,) = problem_of(client.get("/v1/jobs/job_1"), 422).errors
    assert (error.loc, error.code) == ("/path/job_id", "bad_pattern")
    assert "job_ followed by 32 hex digits" in error.message


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_wrong_content_type_of_a_body_has_a_hint(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind}
    answer = client.post("/v1/jobs", content=json.dumps(SPEC), headers=headers)
    (error,) = problem_of(answer, 422).errors
    assert (error.loc, error.code) == ("", "invalid_json")
    assert "application/json" in error.hint


def test_invalid_parameter_is_named(client: TestClient) -> None:
    problem = problem_of(client.get("/v1/jobs?limit=0"), 422)
    assert [(e.loc, e.code) for e in problem.errors] == [("/query/limit", "out_of_range")]


NOT_STRICT = [
    (b'{"base_model": ', "Expecting value"),
    (b'{"base_model": "a", "base_model": "b"}', "same key twice"),
    (b'{"training": {"learning_rate": NaN}}', "NaN is not JSON"),
    (b'{"training": {"learning_rate": -Infinity}}', "-Infinity is not JSON"),
    (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper"),
    (b"[" * 100_000, ""),
    (b'{"seed": ' + b"9" * 5000 + b"}", "digits"),
    (b'"\xff"', "utf-8"),
]


@pytest.mark.parametrize(
    ("body", "message"),
    NOT_STRICT,
    ids=["syntax", "duplicate", "nan", "infinity", "deep", "very-deep", "digits", "utf-8"],
)
def test_body_that_is_not_strict_json_is_rejected(
    client: TestClient, body: bytes, message: str
) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = problem_of(answer, 422)
    assert problem.errors[0].code == "invalid_json"
    assert message in problem.errors[0].message


def test_values_of_the_client_are_not_repeated(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=SPEC | {"name": 1, "metadata": {"k": ["canary-value"]}})
    assert "canary-value" not in answer.text


@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_over_one_mebibyte_is_rejected(client: TestClient, is_chunked: bool) -> None:
    body = json.dumps(SPEC | {"name": "x" * (1 << 20)}).encode()
    content = iter([body]) if is_chunked else body
    answer = client.post(
        "/v1/jobs", content=content, headers={"Content-Type": "application/json"}
    )  # fmt: skip
    assert problem_of(answer, 413).code == "too_large"


def test_unexpected_error_hides_its_cause(
    app: FastAPI, client: TestClient, logged: io.StringIO
) -> None:
    @app.get("/failing")
    def fail() -> None:
        raise RuntimeError("secret detail")

    answer = client.get("/failing")
    assert problem_of(answer, 500).code == "internal"
    assert "secret detail" not in answer.text
    assert "secret detail" in logged.getvalue()


def test_request_id_of_the_client_is_kept_if_it_is_safe(client: TestClient) -> None:
    answer = client.get("/healthz", headers={"x-request-id": "trace-1"})
    assert answer.headers["x-request-id"] == "trace-1"
    answer = client.get("/healthz", headers={"x-request-id": 'a"b\tc'})
    assert answer.headers["x-request-id"] != 'a"b\tc'


def test_conflict_tells_not_to_retry(world: World, client: TestClient, job: dict[str, Any]) -> None:
    answer = client.delete(f"/v1/jobs/{job['id']}")
    assert problem_of(answer, 409).hint
    assert answer.headers["x-should-retry"] == "false"


@pytest.fixture
def client_of_named_host(settings: Settings) -> Iterator[TestClient]:
    """A client of a service that accepts certain hosts only."""
    hosts = frozenset({"plaudit.example.com", "*.internal"})
    with TestClient(create_app(settings.model_copy(update={"trusted_hosts": hosts}))) as client:
        yield client


@pytest.mark.parametrize("host", ["plaudit.example.com", "PLAUDIT.example.com:8000", "a.internal"])
def test_trusted_host_is_accepted(client_of_named_host: TestClient, host: str) -> None:
    assert client_of_named_host.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example.net", "example.com", "plaudit.example.com.evil.net", ""]
)
def test_other_host_is_rejected(client_of_named_host: TestClient, host: str) -> None:
    answer = client_of_named_host.get("/healthz", headers={"Host": host})
    assert problem_of(answer, 400).code == "unknown_host"
