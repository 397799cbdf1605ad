"""Uploads in numbered parts: any format, any order, no lost rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import Engine, func, select, update
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.datasets import part_uploads
from app.main import create_app
from app.models import Blob, DatasetUpload, DatasetUploadPart
from app.storage import blobs
from tests.datasets.test_uploads import csv, feather, parquet, zstd
from tests.world import pairs

JSONL = "application/x-ndjson"
BAD = b'{"prompt": "q", "chosen": 1, "rejected": "b"}\n'


class Upload:
    """An upload in parts, as a client makes it."""

    def __init__(self, client: TestClient, query: str = "") -> None:
        self.client = client
        answer = client.post(f"/v1/datasets/uploads{query}")
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"/v1/datasets/uploads/{answer.json()['id']}"
        self.url = answer.headers["location"]

    def put(self, number: int, body: bytes, kind: str = JSONL) -> Response:
        url = f"{self.url}/parts/{number}"
        answer: Response = self.client.put(url, content=body, headers={"Content-Type": kind})
        return answer

    def finish(self, query: str = "") -> Response:
        answer: Response = self.client.post(f"{self.url}/finish{query}")
        return answer

    def state(self) -> dict[str, Any]:
        return dict(self.client.get(self.url).json())


@pytest.fixture
def upload(client: TestClient) -> Upload:
    return Upload(client)


def content(client: TestClient, dataset: dict[str, Any]) -> list[Any]:
    text = client.get(f"/v1/datasets/{dataset['id']}/content").text
    return [json.loads(line) for line in text.splitlines()]


def test_parts_of_every_container_become_one_dataset_in_their_order(
    client: TestClient,
) -> None:
    """Parts that are sent in reverse order give the same rows as one file."""
    upload = Upload(client, "?name=shards")
    parts = [
        (pairs(4), JSONL),
        (gzip.compress(pairs(2, " of gzip")), JSONL),
        (parquet(3), "application/vnd.apache.parquet"),
        (zstd(pairs(2, " of zstd")), JSONL),
        (feather(1), "application/vnd.apache.arrow.file"),
        (b"[" + pairs(1, " of JSON").strip() + b"]", "application/json"),
    ]
    for number, (body, kind) in reversed(list(enumerate(parts, 1))):
        assert upload.put(number, body, kind).status_code == 201
    answer = upload.finish("?parts=6")
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["name"], dataset["pair_count"]) == ("shards", 13)
    assert dataset["upload_bytes"] == sum(len(body) for body, _ in parts)
    prompts = [row["prompt"] for row in content(client, dataset)]
    assert prompts[:5] == ["Question 0?", "Question 1?", "Question 2?", "Question 3?",
                           "Question 0 of gzip?"]  # fmt: skip
    assert prompts[6:9] == ["q 0", "q 1", "q 2"]
    assert prompts[-1] == "Question 0 of JSON?"
    state = upload.state()
    assert (state["status"], state["dataset_id"], state["parts"]) == (
        "finished",
        dataset["id"],
        [],
    )
    assert upload.finish().json()["id"] == dataset["id"]
    assert upload.put(7, pairs(1)).json()["code"] == "upload_not_open"


def test_part_sent_again_is_kept_and_another_one_replaces_it(upload: Upload) -> None:
    assert upload.put(1, pairs(3)).status_code == 201
    again = upload.put(1, pairs(3))
    assert (again.status_code, again.json()) == (200, upload.state()["parts"][0])
    assert upload.put(1, pairs(5)).status_code == 201
    (part,) = upload.state()["parts"]
    assert (part["number"], part["bytes"]) == (1, len(pairs(5)))
    assert upload.finish().json()["pair_count"] == 5


def test_one_part_is_the_dataset_of_a_single_upload(client: TestClient, upload: Upload) -> None:
    single = client.post("/v1/datasets", content=pairs(3), headers={"Content-Type": JSONL}).json()
    upload.put(1, pairs(3))
    answer = upload.finish()
    assert (answer.status_code, answer.json()) == (200, single)


@pytest.mark.parametrize(
    ("numbers", "query", "says"),
    [
        ([], "", "1 of 1 parts are missing: 1."),
        ([2], "", "1 of 2 parts are missing: 1."),
        ([1, 4], "", "2 of 4 parts are missing: 2, 3."),
        ([1, 2], "?parts=3", "1 of 3 parts are missing: 3."),
        ([1, 2, 3], "?parts=2", "The upload has 3 parts, not 2."),
    ],
)
def test_missing_part_is_named(upload: Upload, numbers: list[int], query: str, says: str) -> None:
    for number in numbers:
        upload.put(number, pairs(2, f" {number}"))
    answer = upload.finish(query)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_incomplete")
    assert answer.json()["detail"] == says
    assert upload.state()["status"] == "open"


@pytest.mark.parametrize(
    ("second", "kind", "loc", "message"),
    [
        (pairs(2) + BAD, JSONL, "/lines/8/chosen", "(line 3 of part 2)"),
        (gzip.compress(pairs(20))[:-20], JSONL, "/lines/6", "(line 1 of part 2)"),
        (b"PAR1 and no more", "application/vnd.apache.parquet", "/lines/6", "(line 1 of part 2)"),
        (csv(3), "text/csv", "/lines/6", "(line 1 of part 2)"),
    ],
    ids=["row", "cut-gzip", "broken-parquet", "csv-after-jsonl"],
)
def test_bad_part_is_named_and_can_be_sent_again(
    upload: Upload, second: bytes, kind: str, loc: str, message: str
) -> None:
    upload.put(1, pairs(5))
    upload.put(2, second, kind)
    answer = upload.finish()
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_dataset")
    (error,) = answer.json()["errors"]
    assert error["loc"] == loc
    assert error["message"].endswith(message)
    assert upload.state()["status"] == "open"
    upload.put(2, pairs(2, " again"))
    assert upload.finish().json()["pair_count"] == 7


def test_part_without_rows_is_no_fault(upload: Upload) -> None:
    upload.put(1, b"")
    upload.put(2, pairs(2))
    assert upload.finish().json()["pair_count"] == 2


def test_options_hold_for_all_parts(client: TestClient) -> None:
    upload = Upload(client, "?columns[prompt]=q&columns[chosen]=a&columns[rejected]=b"
                            "&ignore_columns=note&on_invalid=skip")  # fmt: skip
    row = '{"q": "x%d", "a": "y", "b": "%s", "note": "n%d"}\n'
    upload.put(1, (row % (1, "z", 1) + row % (2, "y", 2)).encode())
    upload.put(2, (row % (3, "z", 3)).encode())
    dataset = upload.finish().json()
    assert dataset["ignored_columns"] == ["note"]
    assert [(each["code"], each["lines"]) for each in dataset["skipped"]] == [
        ("identical_pair", [2])
    ]
    assert dataset["pair_count"] == 2


@pytest.mark.parametrize(
    ("limits", "number", "status", "code"),
    [
        ({"max_upload_bytes": 100}, 1, 413, "too_large"),
        ({"max_parts_bytes": 200}, 2, 413, "too_large"),
        ({"quota_stored_bytes": 200}, 2, 429, "quota_exceeded"),
        ({}, 1001, 422, "invalid_request"),
    ],
)
def test_parts_are_bounded(
    settings: Settings,
    client: TestClient,
    limits: dict[str, int],
    number: int,
    status: int,
    code: str,
) -> None:
    with TestClient(create_app(settings.model_copy(update=limits))) as small:
        small.headers = client.headers
        upload = Upload(small)
        upload.put(1, pairs(2))
        answer = upload.put(number, pairs(3))
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_open_uploads_of_a_key_are_bounded(
    settings: Settings, client: TestClient, key_for: Callable[..., str]
) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_open_uploads": 1}))) as small:
        small.headers = client.headers
        first = Upload(small)
        answer = small.post("/v1/datasets/uploads")
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        other = {"Authorization": f"Bearer {key_for('acme')}"}
        assert small.post("/v1/datasets/uploads", headers=other).status_code == 201
        assert small.delete(first.url).status_code == 204
        assert small.post("/v1/datasets/uploads").status_code == 201


def test_expired_upload_is_gone_with_its_bytes(upload: Upload, engine: Engine) -> None:
    def count(table: type) -> int:
        with engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0

    upload.put(1, pairs(3))
    with engine.begin() as connection:
        connection.execute(update(Blob).values(created_at=0))
    assert blobs.collect_garbage(engine) == 0  # the part needs it
    with engine.begin() as connection:
        connection.execute(update(DatasetUpload).values(expires_at=0))
    assert upload.client.get(upload.url).status_code == 404
    assert upload.put(2, pairs(1)).status_code == 404
    assert part_uploads.drop_expired(engine, 10) == 1
    with engine.begin() as connection:
        connection.execute(update(Blob).values(created_at=0))
    assert blobs.collect_garbage(engine) > 0
    assert [count(table) for table in (DatasetUpload, DatasetUploadPart, Blob)] == [0, 0, 0]


def test_upload_whose_process_died_while_finishing_can_be_finished(
    upload: Upload, engine: Engine
) -> None:
    upload.put(1, pairs(3))
    with engine.begin() as connection:
        connection.execute(
            update(DatasetUpload).values(
                status="finishing", finish_id="fin_dead", finish_expires_at=1
            )
        )
    assert upload.finish().status_code == 201
