"""Named evaluation datasets belong to the tenant, and exist while a job needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from app.core.database import transaction
from app.models import JobEvalDataset
from tests.world import World

ID = "ds_" + "1" * 32


@pytest.fixture
def maths(world: World) -> str:
    return str(world.upload()["id"])


def test_plan_names_each_dataset_with_its_content(world: World, maths: str) -> None:
    world.know_base_model()
    safety = world.upload(count=7)
    job = world.submit(eval_datasets={"safety": safety["id"], "maths": maths})
    named = job["plan"]["data"]["eval_datasets"]
    assert {name: ref["id"] for name, ref in named.items()} == {
        "maths": maths,
        "safety": safety["id"],
    }
    assert named["safety"]["pair_count"] == 7
    assert job["spec"]["eval_datasets"] == {"maths": maths, "safety": safety["id"]}


def test_plan_of_a_job_without_named_datasets_says_nothing_about_them(world: World) -> None:
    world.know_base_model()
    job = world.submit(eval_dataset={"fraction": 0.1}, training={"eval_steps": 2})
    assert "eval_datasets" not in job["plan"]["data"]


def test_dataset_is_kept_until_the_job_has_ended(
    world: World, client: TestClient, engine: Engine, maths: str
) -> None:
    job = world.submit(eval_datasets={"maths": maths})
    refused = client.delete(f"/v1/datasets/{maths}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/datasets/{maths}").status_code == 204
    assert world.get(job)["spec"]["eval_datasets"] == {"maths": maths}
    again = client.post(f"/v1/jobs/{job['id']}/clone")
    assert again.status_code == 422
    assert [(e["loc"], e["code"]) for e in again.json()["errors"]] == [
        ("/eval_datasets/maths", "dataset_not_found")
    ]


def test_deleted_job_leaves_nothing_behind(
    world: World, client: TestClient, engine: Engine, maths: str
) -> None:
    job = world.submit(eval_datasets={"maths": maths})
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    with transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(JobEvalDataset)) == 0


def test_dataset_of_another_tenant_does_not_exist(
    world: World, client: TestClient, key_for: Callable[..., str], maths: str
) -> None:
    client.headers["Authorization"] = f"Bearer {key_for('other')}"
    answer = client.post("/v1/jobs", json=world.spec(eval_datasets={"maths": maths, "x": ID}))
    assert answer.status_code == 422
    assert [(e["loc"], e["code"]) for e in answer.json()["errors"]] == [
        ("/eval_datasets/maths", "dataset_not_found"),
        ("/eval_datasets/x", "dataset_not_found"),
    ]


def test_clone_adds_and_removes_single_datasets(
    world: World, client: TestClient, maths: str
) -> None:
    job = world.submit(eval_datasets={"maths": maths, "safety": maths})
    overrides = {"eval_datasets": {"maths": None, "code": maths}}
    clone = client.post(f"/v1/jobs/{job['id']}/clone", json={"overrides": overrides})
    assert clone.json()["spec"]["eval_datasets"] == {"safety": maths, "code": maths}


@pytest.mark.parametrize(
    ("named", "loc", "message"),
    [
        ({f"n{i}": ID for i in range(9)}, "/eval_datasets", "at most 8 entries, not 9"),
        ({"before": ID}, "/eval_datasets", "before cannot name a dataset"),
        ({"before_x": ID}, "/eval_datasets", "before_x cannot name a dataset"),
        ({"Maths": ID}, "/eval_datasets/Maths", ""),
        ({"a" * 25: ID}, f"/eval_datasets/{'a' * 25}", ""),
        ({"a/b": ID}, "/eval_datasets/a~1b", ""),
        ({"": ID}, "/eval_datasets/", ""),
        ({"maths": "ds_1"}, "/eval_datasets/maths", ""),
        ({"maths": {"fraction": 0.1}}, "/eval_datasets/maths", ""),
        ([ID], "/eval_datasets", ""),
    ],
    ids=["many", "before", "before-and-more", "capital", "long", "slash", "empty", "no-id",
         "fraction", "list"],
)  # fmt: skip
def test_names_and_number_are_bounded(
    world: World, client: TestClient, named: Any, loc: str, message: str
) -> None:
    answer = client.post("/v1/jobs", json=world.spec(eval_datasets=named))
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["loc"].startswith(loc)
    assert message in error["message"]
    assert error["hint"]


def test_dataset_of_another_form_is_named(world: World, client: TestClient) -> None:
    turn = '{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"}],'
    turn += (
        ' "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "n"}]}'
    )
    chat = client.post(
        "/v1/datasets", content=turn, headers={"Content-Type": "application/x-ndjson"}
    ).json()
    spec = world.spec(eval_datasets={"chat": chat["id"]}, training={"text_format": "raw"})
    answer = client.post("/v1/jobs", json=spec)
    assert [(e["loc"], e["code"]) for e in answer.json()["errors"]] == [
        ("/eval_datasets", "format_differs")
    ]
