"""Imports from a hub on loopback, by a real worker, through the API."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.core.settings import Settings
from tests.base_models.model_sources import COMMIT, Hub, hub
from tests.services import wait_until
from tests.supervisor.conftest import workshop
from tests.supervisor.workshop import Workshop
from tests.world import pairs

__all__ = ["hub", "workshop"]

SECRET = "hf_canaryCANARYcanary"
BAD = b'{"prompt": "q", "chosen": 1, "rejected": "b"}\n'
SHARDS = {
    "data/train-00000-of-00002.jsonl": pairs(3),
    "data/train-00001-of-00002.jsonl": pairs(2, " more"),
    "data/test-00000-of-00001.jsonl": pairs(1),
    "README.md": b"# card",
}


@pytest.fixture
def settings(settings: Settings, workshop: Workshop, hub: Hub) -> Settings:
    """The API and the worker share a database, a directory and a hub."""
    changes = {"hub_endpoint": hub.endpoint, "max_failures": 1}
    workshop.settings = workshop.settings.model_copy(update=changes)
    return settings


class Imports:
    """A user who imports datasets, and the worker."""

    def __init__(self, client: TestClient, shop: Workshop) -> None:
        self.client, self.shop = client, shop

    def request(self, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/datasets/imports", json=SOURCE | fields)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/v1/datasets/imports/{answer.json()['id']}"
        return dict(answer.json())

    def run(self, **fields: Any) -> dict[str, Any]:
        """Import a dataset, and wait for the end."""
        queued = self.request(**fields)
        assert queued["status"] == "queued"
        with self.shop.running_pool():
            wait_until("the import", lambda: self.state(queued)["finished_at"] is not None)
        return self.state(queued)

    def state(self, queued: dict[str, Any]) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/datasets/imports/{queued['id']}").json())


SOURCE = {"source": "hub:acme/pairs@main"}


@pytest.fixture
def imports(client: TestClient, workshop: Workshop, hub: Hub) -> Imports:
    hub.dataset = SHARDS
    return Imports(client, workshop)


def test_split_becomes_a_dataset_whose_origin_is_a_commit(
    imports: Imports, client: TestClient, hub: Hub
) -> None:
    hub.token = SECRET
    imports.shop.settings = imports.shop.settings.model_copy(
        update={"hub_token": SecretStr(SECRET)}
    )
    done = imports.run()
    assert (done["status"], done["failure"]) == ("succeeded", None)
    dataset = client.get(f"/v1/datasets/{done['dataset_id']}").json()
    assert (dataset["name"], dataset["pair_count"]) == ("pairs", 5)
    assert dataset["origin"] == f"hub:acme/pairs@{COMMIT}#train"
    assert not list(imports.shop.settings.work_dir.glob("imp_*"))
    # Importing the same pairs again returns the existing dataset.
    again = imports.run(name="another", split="train")
    assert again["dataset_id"] == done["dataset_id"]
    assert SECRET not in client.get("/v1/datasets/imports").text


@pytest.mark.parametrize(
    ("fields", "files", "code", "says"),
    [
        ({"source": "hub:acme/none"}, SHARDS, "source_not_found", "hub:acme/none@main"),
        ({"source": "hub:acme/pairs@v9"}, SHARDS, "source_not_found", "no revision 'v9'"),
        ({"split": "dev"}, SHARDS, "source_not_found", "there are: test, train"),
        ({}, {"train.jsonl": pairs(2), "train-2.jsonl": BAD}, "dataset_invalid",
         "line 1, chosen: found a number"),
        ({}, {"train.parquet": b"PAR1 and no more"}, "dataset_invalid", "of train.parquet"),
    ],
    ids=["repository", "revision", "split", "row", "file"],
)  # fmt: skip
def test_import_fails_with_the_cause(
    imports: Imports,
    hub: Hub,
    fields: dict[str, str],
    files: dict[str, bytes],
    code: str,
    says: str,
) -> None:
    hub.dataset = files
    done = imports.run(**fields)
    assert (done["status"], done["dataset_id"]) == ("failed", None)
    assert done["failure"]["code"] == code
    assert says in done["failure"]["detail"], done["failure"]["detail"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_upload_bytes": 10}, "source_too_large"),
        ({"quota_stored_bytes": 10}, "quota_exceeded"),
    ],
)
def test_limits_hold_for_imports(imports: Imports, limits: dict[str, int], code: str) -> None:
    imports.shop.settings = imports.shop.settings.model_copy(update=limits)
    assert imports.run()["failure"]["code"] == code


@pytest.mark.parametrize("source", ["hub:acme-2/pairs", "hub:other/pairs@main"])
def test_only_sources_of_the_allow_list_are_imported(client: TestClient, source: str) -> None:
    answer = client.post("/v1/datasets/imports", json={"source": source})
    assert (answer.status_code, answer.json()["code"]) == (422, "source_not_allowed")
    assert answer.json()["errors"][0]["loc"] == "/source"


def test_unfinished_imports_are_bounded_and_can_be_cancelled(client: TestClient) -> None:
    ids = [client.post("/v1/datasets/imports", json=SOURCE).json()["id"] for _ in range(10)]
    answer = client.post("/v1/datasets/imports", json=SOURCE)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    for _ in range(2):
        cancelled = client.post(f"/v1/datasets/imports/{ids[0]}/cancel").json()
        assert cancelled["status"] == "cancelled"
    assert client.post("/v1/datasets/imports", json=SOURCE).status_code == 202
    assert client.get(f"/v1/jobs/job_{ids[1].partition('_')[2]}").status_code == 404


def test_import_is_cancelled_while_the_hub_sends_nothing(
    imports: Imports, client: TestClient, hub: Hub
) -> None:
    hub.may_finish = threading.Event()
    queued = imports.request()
    with imports.shop.running_pool():
        wait_until("the download", lambda: hub.fetched("train-00000-of-00002.jsonl"))
        client.post(f"/v1/datasets/imports/{queued['id']}/cancel")
        wait_until("the end", lambda: imports.state(queued)["status"] == "cancelled")
        hub.may_finish.set()
