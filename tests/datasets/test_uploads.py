"""Uploads in every format, checked while they stream; rejected ones are not stored."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from app.models import Blob, BlobChunk, Dataset
from app.storage.blobs import collect_garbage
from tests.world import World, pairs

NDJSON = {"Content-Type": "application/x-ndjson"}


def csv(count: int) -> bytes:
    rows = [f"q{i},good {i},bad {i}" for i in range(count)]
    return "\n".join(["prompt,chosen,rejected", *rows]).encode()


def parquet(count: int) -> bytes:
    names = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    table = pa.table({k: [f"{v} {i}" for i in range(count)] for k, v in names.items()})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


def feather(count: int) -> bytes:
    file = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pylist([PAIR] * count), file)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return bytes(out.getvalue().to_pybytes())


def rows_in(engine: Engine, *tables: Any) -> list[int]:
    with engine.connect() as connection:
        return [connection.scalar(select(func.count()).select_from(t)) or 0 for t in tables]


@pytest.mark.parametrize(
    ("body", "content_type", "query", "found"),
    [
        (pairs(5), "application/x-ndjson", "", "jsonl"),
        (pairs(5), "application/jsonl; charset=utf-8", "", "jsonl"),
        (gzip.compress(pairs(5), mtime=0), "application/gzip", "?format=jsonl", "jsonl"),
        (gzip.compress(pairs(5), mtime=0), "application/x-ndjson", "", "jsonl"),
        (pairs(5), "application/x-www-form-urlencoded", "?format=jsonl", "jsonl"),
        (csv(5), "text/csv", "", "csv"),
        (parquet(5), "application/vnd.apache.parquet", "", "parquet"),
        (parquet(5), "application/octet-stream", "?format=parquet", "parquet"),
    ],
)
def test_every_format_becomes_a_dataset(
    client: TestClient, body: bytes, content_type: str, query: str, found: str
) -> None:
    headers = {"Content-Type": content_type}
    answer = client.post(f"/v1/datasets{query}", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["source_format"], dataset["pair_count"]) == (found, 5)
    assert dataset["columns"] == ["prompt", "chosen", "rejected"]
    assert dataset["upload_sha256"] == hashlib.sha256(body).hexdigest()
    assert dataset["upload_bytes"] == len(body)

    content = client.get(f"/v1/datasets/{dataset['id']}/content")
    assert hashlib.sha256(content.content).hexdigest() == dataset["sha256"]
    assert len(content.content) == dataset["bytes"]
    first = json.loads(content.text.splitlines()[0])
    assert first["chosen"].lower().startswith("good 0")
    preview = client.get(f"/v1/datasets/{dataset['id']}/preview?n=2").json()["data"]
    assert len(preview) == 2
    assert preview[0] == first


def test_format_of_a_multipart_part_is_taken_from_its_name(client: TestClient) -> None:
    answer = client.post(
        "/v1/datasets?name=mine",
        files={"file": ("pairs.csv", csv(400), "application/octet-stream")},
    )
    assert answer.status_code == 201, answer.text
    assert (answer.json()["name"], answer.json()["pair_count"]) == ("mine", 400)


def test_two_multipart_parts_are_rejected(client: TestClient, engine: Engine) -> None:
    files = [("a", ("a.csv", csv(2))), ("b", ("b.csv", csv(3)))]
    answer = client.post("/v1/datasets", files=files)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_multipart")
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


INVALID_FORMS = [
    (b"--x\r\nContent-Disposition: form-data; filename=a.csv\r\n\r\nabc", "; boundary=x"),
    (b"nothing like it", "; boundary=x"),
    (b"", "; boundary=x"),
    (b"--x--\r\n", "; boundary=x"),
    (b"", ""),
    (b"--x\r\nA: " + b"b" * 40_000, "; boundary=x"),
]


@pytest.mark.parametrize(
    ("body", "options"),
    INVALID_FORMS,
    ids=["truncated", "other-text", "empty", "no-part", "no-boundary", "long-header"],
)
def test_invalid_multipart_is_rejected(
    client: TestClient, engine: Engine, body: bytes, options: str
) -> None:
    headers = {"Content-Type": f"multipart/form-data{options}"}
    answer = client.post("/v1/datasets", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_multipart")
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


def test_invalid_lines_are_named_and_nothing_is_stored(client: TestClient, engine: Engine) -> None:
    lines = pairs(30_000).splitlines(keepends=True)
    for number in (3, 70, 29_999):
        lines[number - 1] = b'{"chosen": 1, "rejected": "b"}\n'
    lines[4] = b"not json\n"
    answer = client.post("/v1/datasets", content=b"".join(lines), headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_dataset")
    assert "4 lines" in answer.json()["detail"]
    assert [e["loc"] for e in answer.json()["errors"]] == [
        "/lines/3/chosen",
        "/lines/5",
        "/lines/70/chosen",
        "/lines/29999/chosen",
    ]
    assert all(e["hint"] for e in answer.json()["errors"])
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


def test_same_upload_again_returns_the_same_dataset(client: TestClient, engine: Engine) -> None:
    first = client.post("/v1/datasets", content=pairs(5), headers=NDJSON)
    second = client.post("/v1/datasets", content=pairs(5), headers=NDJSON)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert rows_in(engine, Dataset, Blob) == [1, 1]


def test_same_upload_of_two_tenants_shares_a_blob(
    client: TestClient, engine: Engine, key_for: Callable[..., str]
) -> None:
    first = client.post("/v1/datasets", content=pairs(5), headers=NDJSON)
    client.headers["Authorization"] = f"Bearer {key_for('other')}"
    second = client.post("/v1/datasets", content=pairs(5), headers=NDJSON)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert rows_in(engine, Dataset, Blob) == [2, 1]


@pytest.mark.parametrize("content_type", ["image/png", "application/zip", "text/html", ""])
def test_unsupported_content_type_is_rejected(client: TestClient, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/v1/datasets", content=pairs(1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_gzip_of_unknown_format_has_a_hint(client: TestClient) -> None:
    body = gzip.compress(pairs(3))
    refused = client.post(
        "/v1/datasets", content=body, headers={"Content-Type": "application/gzip"}
    )
    assert refused.status_code == 415
    assert "such as application/x-ndjson for JSONL" in refused.json()["hint"]
    assert client.post("/v1/datasets", content=body, headers=NDJSON).status_code == 201


@pytest.mark.parametrize(
    ("body", "kind", "hint"),
    [
        (b"", "application/x-ndjson", "give at least one row"),
        (b"no", "application/vnd.apache.parquet", "send a complete Parquet file"),
        (b"chosen,rejected\na,b\n", "application/x-ndjson", "send it with content type text/csv"),
        (b"PK\x03\x04....", "application/x-ndjson", "unpack it"),
        (
            b'{"chosen": "a", "rejected": "a"}\n' * 2,
            "application/x-ndjson",
            "Correct the named lines",
        ),
        (b'{"chosen": "a"}\n', "application/x-ndjson", "name the columns prompt, chosen"),
    ],
)
def test_rejected_file_has_a_hint(client: TestClient, body: bytes, kind: str, hint: str) -> None:
    answer = client.post("/v1/datasets", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert answer.json()["hint"].startswith(hint)


@pytest.fixture
def small(settings: Settings, key_for: Callable[..., str]) -> Iterator[TestClient]:
    """A client of a service with limits of 4 kB per file and 10 kB per tenant."""
    limited = settings.model_copy(update={"max_upload_bytes": 4000, "quota_stored_bytes": 10_000})
    with TestClient(create_app(limited)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        yield client


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_large_file_is_rejected(small: TestClient, engine: Engine, is_chunked: bool) -> None:
    body = pairs(200)
    content = iter([body[:1000], body[1000:]]) if is_chunked else body
    answer = small.post("/v1/datasets", content=content, headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


def test_storage_quota_is_enforced(small: TestClient) -> None:
    statuses = []
    for i in range(6):
        body = pairs(30, f" number {i}")
        answer = small.post("/v1/datasets", content=body, headers=NDJSON)
        statuses.append(answer.status_code)
    assert statuses[0] == 201
    assert statuses[-1] == 429
    assert answer.json()["code"] == "quota_exceeded"


def test_interrupted_upload_leaves_no_rows(
    app: FastAPI, client: TestClient, engine: Engine
) -> None:
    body = pairs(40_000)
    sent = iter(
        [
            {"type": "http.request", "body": body, "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/datasets",
        "raw_path": b"/v1/datasets",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"content-type", b"application/x-ndjson"),
            (b"authorization", client.headers["authorization"].encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def call() -> None:
        async def receive() -> Any:
            return next(sent)

        async def send(_message: Any) -> None:
            return None

        await app(scope, receive, send)

    anyio.run(call)
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


def test_dataset_of_an_unfinished_job_is_not_deleted(
    world: World, client: TestClient, job: dict[str, Any], engine: Engine
) -> None:
    path = f"/v1/datasets/{job['spec']['train_dataset']}"
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert world.get(job)["spec"]["train_dataset"] == path.rpartition("/")[2]
    assert collect_garbage(engine) == 0  # the blob has no reference but is too young


def test_name_with_control_characters_is_rejected(client: TestClient) -> None:
    answer = client.post("/v1/datasets?name=a%00b", content=pairs(1), headers=NDJSON)
    assert answer.status_code == 422


# --- shapes and options -------------------------------------------------------------------------

ORCA = (
    b'{"system": "Be brief.", "question": "Why?", "chosen": "So.", "rejected": "Because."}\n'
    b'{"system": "", "question": "How?", "chosen": "Thus.", "rejected": "Somehow."}\n'
)
MINE = b'{"frage": "Why?", "gut": "So.", "schlecht": "Because."}\n'


@pytest.mark.parametrize(
    "row",
    [
        {"问题": "q", "好的回答": "good", "差的回答": "bad"},
        {"my question": "q", "good & true": "good", "bad reply": "bad", "draft": "d"},
        {"prompt": "q", "my_answer_a": "bad", "my_answer_b": "good", "a_votes": 1, "b_votes": 2},
    ],
)
def test_query_that_an_error_suggests_is_accepted(client: TestClient, row: dict[str, Any]) -> None:
    rows = [{name: f"{v} {i}" if name == "draft" else v for name, v in row.items()} for i in (1, 2)]
    body = "".join(json.dumps(each) + "\n" for each in rows)
    refused = client.post("/v1/datasets", content=body, headers=NDJSON).json()
    query = re.search(r"\?(\S+)", refused["errors"][0]["hint"])
    assert query is not None, refused
    accepted = client.post(f"/v1/datasets?{query[1]}", content=body, headers=NDJSON)
    assert accepted.status_code == 201, accepted.text
    content = client.get(f"/v1/datasets/{accepted.json()['id']}/content").text
    stored = json.loads(content.splitlines()[0])
    assert (stored["prompt"], stored["chosen"], stored["rejected"]) == ("q", "good", "bad")


MAPPED = "columns[prompt]=frage&columns[chosen]=gut&columns[rejected]=schlecht"


def test_answer_names_the_shape_and_what_is_stored(client: TestClient) -> None:
    dataset = client.post("/v1/datasets", content=ORCA, headers=NDJSON).json()
    assert (dataset["shape"], dataset["row_form"]) == ("orca", "pairs")
    assert (dataset["row_count"], dataset["pair_count"]) == (2, 2)
    assert dataset["columns"] == ["prompt", "chosen", "rejected"]
    assert dataset["warnings"] == dataset["skipped"] == []
    first = client.get(f"/v1/datasets/{dataset['id']}/preview").json()["data"][0]
    assert [message["content"] for message in first["prompt"]] == ["Be brief.", "Why?"]
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert client.get("/v1/datasets").json()["data"] == [dataset]


def test_columns_are_mapped_by_the_query(client: TestClient) -> None:
    refused = client.post("/v1/datasets", content=MINE, headers=NDJSON)
    assert refused.status_code == 422
    assert '"frage", "gut", "schlecht"' in refused.json()["detail"]
    dataset = client.post(f"/v1/datasets?{MAPPED}", content=MINE, headers=NDJSON).json()
    assert (dataset["shape"], dataset["pair_count"]) == ("mapped", 1)


def test_ranked_rows_are_stored_as_such(client: TestClient) -> None:
    row = {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c"], "subset": "s"}
    dataset = client.post("/v1/datasets", json=row).json()
    assert (dataset["shape"], dataset["row_form"]) == ("rewardbench2", "ranked")
    assert dataset["columns"] == ["prompt", "replies", "slice"]
    assert (dataset["row_count"], dataset["pair_count"]) == (1, 2)


def test_stored_rows_can_be_uploaded_again(client: TestClient) -> None:
    for row in (
        {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c"], "subset": "s"},
        {"question": "q", "system": "s", "chosen": "a", "rejected": "b"},
    ):
        first = client.post("/v1/datasets", json=row).json()
        content = client.get(f"/v1/datasets/{first['id']}/content").content
        second = client.post("/v1/datasets", content=content, headers=NDJSON).json()
        assert second["sha256"] == first["sha256"]


def test_invalid_rows_are_skipped_and_columns_ignored_on_request(client: TestClient) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "ba"[n == 1 :]} for n in range(4)]
    rows[2]["rejected"] = "a"
    body = "".join(json.dumps(row | {"context": row["prompt"]}) + "\n" for row in rows).encode()
    url = "/v1/datasets?on_invalid=skip&ignore_columns=context,other&ignore_columns=more"
    refused = client.post("/v1/datasets?on_invalid=skip", content=body, headers=NDJSON)
    assert refused.status_code == 201  # the context only repeats the prompt
    body = body.replace(b'"context": "q', b'"context": "c')
    refused = client.post("/v1/datasets?on_invalid=skip", content=body, headers=NDJSON)
    assert [e["code"] for e in refused.json()["errors"]] == ["unused_column"]
    dataset = client.post(url, content=body, headers=NDJSON).json()
    assert dataset["skipped"] == [{"code": "identical_pair", "count": 2, "lines": [2, 3]}]
    assert dataset["ignored_columns"] == ["context"]
    assert [w["code"] for w in dataset["warnings"]] == ["columns_ignored", "rows_skipped"]


def test_same_bytes_read_otherwise_are_another_dataset(client: TestClient) -> None:
    urls = ["/v1/datasets", "/v1/datasets?ignore_columns=system", "/v1/datasets?on_invalid=skip"]
    answers = [client.post(url, content=ORCA, headers=NDJSON) for url in (*urls, *urls)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 200, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 3
    assert len({answer.json()["upload_sha256"] for answer in answers}) == 1


@pytest.mark.parametrize(
    ("query", "loc", "code"),
    [
        ("columns[answer]=a", "/query/columns[answer]", "unknown_field"),
        ("columns[prompt]=", "/query/columns[prompt]", "out_of_range"),
        ("columns[prompt]=a&columns[prompt]=b", "/query/columns[prompt]", "duplicate_key"),
        ("labels[c]=1", "/query/labels[c]", "unknown_field"),
        ("on_invalid=ignore", "/query/on_invalid", "not_one_of"),
        ("column[prompt]=a", "/query/column[prompt]", "unknown_field"),
    ],
)
def test_bad_option_is_named(client: TestClient, query: str, loc: str, code: str) -> None:
    answer = client.post(f"/v1/datasets?{query}", content=MINE, headers=NDJSON)
    assert answer.status_code == 422
    assert [(e["loc"], e["code"]) for e in answer.json()["errors"]] == [(loc, code)]


@pytest.mark.parametrize(
    ("name", "body", "found"),
    [
        ("pairs.tsv", csv(3).replace(b",", b"\t"), "tsv"),
        ("pairs.json.gz", gzip.compress(json.dumps([PAIR, PAIR]).encode(), mtime=0), "json"),
        ("pairs.jsonl.bz2", bz2.compress(pairs(3)), "jsonl"),
        ("pairs.csv.xz", lzma.compress(csv(3)), "csv"),
        ("pairs.jsonl.zst", zstd(pairs(3)), "jsonl"),
        ("pairs.feather", feather(3), "arrow"),
        ("pairs.csv", parquet(3), "parquet"),
    ],
)
def test_file_is_read_by_its_name_and_its_first_bytes(
    client: TestClient, name: str, body: bytes, found: str
) -> None:
    files = {"file": (name, body, "application/octet-stream")}
    answer = client.post("/v1/datasets", files=files)
    assert answer.status_code == 201, answer.text
    assert answer.json()["source_format"] == found
    assert answer.json()["upload_sha256"] == hashlib.sha256(body).hexdigest()
