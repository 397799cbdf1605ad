"""Variables of the chat template that an upload gives for all of its rows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from tests.datasets.test_uploads import NDJSON
from tests.world import BASE_MODEL, World

ROW = {
    "prompt": [{"role": "user", "content": "Why?"}],
    "chosen": [{"role": "assistant", "content": "So."}],
    "rejected": [{"role": "assistant", "content": "Because."}],
}
#: Values as written in a query, and as parsed.
VALUES = {
    "false": False,
    "true": True,
    "3": 3,
    "-0.5": -0.5,
    "high": "high",
    '"3"': "3",
    '"true"': "true",
    "a b=c&d": "a b=c&d",
    "NaN": "NaN",
    "[1]": "[1]",
}


def upload(client: TestClient, salt: str = "", path: str = "/v1/datasets", **variables: str) -> Any:
    query = urlencode({f"chat_template_kwargs[{n}]": value for n, value in variables.items()})
    row = ROW | {"prompt": [{"role": "user", "content": f"Why {salt}?"}]}
    return client.post(f"{path}?{query}", content=json.dumps(row), headers=NDJSON)


def test_values_keep_their_type(client: TestClient) -> None:
    given = {f"v{number}": text for number, text in enumerate(VALUES)}
    answer = upload(client, **given)
    assert answer.status_code == 201, answer.text
    assert answer.json()["chat_template_kwargs"] == {
        f"v{number}": value for number, value in enumerate(VALUES.values())
    }
    assert client.get(f"/v1/datasets/{answer.json()['id']}").json() == answer.json()


def test_other_variables_are_another_dataset(client: TestClient) -> None:
    first = upload(client).json()
    second = upload(client, think="false").json()
    assert first["chat_template_kwargs"] == {}
    assert second["id"] != first["id"]
    assert second["sha256"] == first["sha256"]
    assert upload(client, think="false").json()["id"] == second["id"]
    assert upload(client, think="0").json()["id"] != second["id"]


@pytest.mark.parametrize(
    ("variables", "loc", "says"),
    [
        ({"tools": "x"}, "/query/chat_template_kwargs", "parameter of the renderer"),
        ({"a-b": "x"}, "/query/chat_template_kwargs[a-b]", "pattern"),
        ({"a": "x" * 513}, "/query/chat_template_kwargs[a]", "512"),
        ({"a": "x" * 5000}, "/query/chat_template_kwargs[a]", "4000"),
        ({"a": ""}, "/query/chat_template_kwargs[a]", "1 to"),
        ({"a": "1e999"}, "/query/chat_template_kwargs[a]", "finite"),
        ({"a": "x\0"}, "/query/chat_template_kwargs[a]", "pattern"),
        ({f"v{n}": "1" for n in range(17)}, "/query/chat_template_kwargs", "at most 16"),
    ],
    ids=["reserved", "name", "long", "too-long", "empty", "infinite", "nul", "many"],
)
@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/datasets/uploads"])
def test_variables_are_bounded(
    client: TestClient, path: str, variables: dict[str, str], loc: str, says: str
) -> None:
    answer = upload(client, path=path, **variables)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["loc"] == loc
    assert says in error["message"]
    assert error["hint"]


def test_variables_hold_for_an_upload_in_parts(client: TestClient) -> None:
    opened = upload(client, path="/v1/datasets/uploads", think="false", style='"1"')
    url = opened.headers["location"]
    client.put(f"{url}/parts/1", content=json.dumps(ROW), headers=NDJSON)
    dataset = client.post(f"{url}/finish").json()
    assert dataset["chat_template_kwargs"] == {"think": False, "style": "1"}


def test_plan_of_a_job_shows_the_variables_and_where_they_come_from(
    world: World, client: TestClient
) -> None:
    world.know_base_model()
    train = upload(client, think="false").json()["id"]
    evaluation = upload(client, "now", think="true").json()["id"]
    spec: dict[str, Any] = {"base_model": BASE_MODEL, "train_dataset": train}
    plan = client.post("/v1/jobs?dry_run=true", json=spec).json()["plan"]
    assert plan["data"]["train"]["chat_template_kwargs"] == {"think": False}
    assert plan["tokenization"]["chat_template_kwargs"] == {"think": False}
    assert "set think = false" in plan["tokenization"]["chat_template"]
    spec["eval_dataset"] = evaluation
    refused = client.post("/v1/jobs?dry_run=true", json=spec)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["code"] == "template_variables_differ"
    spec["training"] = {"chat_template_kwargs": {"think": True}}
    job = client.post("/v1/jobs", json=spec)
    assert job.status_code == 201, job.text
    plan = client.get(f"/v1/jobs/{job.json()['id']}").json()["plan"]
    assert plan["tokenization"]["chat_template_kwargs"] == {"think": True}
