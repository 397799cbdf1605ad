"""The client handles every documented status of every operation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaudit import (
    APIError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    QuotaExceededError,
    RateLimitedError,
    Retries,
    StorageFullError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnexpectedResponseError,
    UnsupportedMediaTypeError,
)
from tests.client.calls import ASKED_FIRST, CALLS, NOT_NEEDED, Ids, operations
from tests.client.conftest import Connect, connecting
from tests.client.samples import sample
from tests.client.scripted import Answer, Scripted, problem, scripted

CONTENT = b"what was trained"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ONCE = Retries(attempts=1)
KEY = "plk_test"

CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "upload_stalled",
    409: "conflict",
    412: "precondition_failed",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
    429: "rate_limited",
    503: "unavailable",
    507: "storage_full",
}
CLASSES = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: APIError,
    409: ConflictError,
    412: APIError,
    413: TooLargeError,
    415: UnsupportedMediaTypeError,
    416: APIError,
    422: InvalidRequestError,
    429: RateLimitedError,
    503: UnavailableError,
    507: StorageFullError,
}

DOCUMENTED = [
    (name, int(status))
    for name, (_, _, operation) in operations().items()
    if name not in NOT_NEEDED
    for status in operation["responses"]
]
REFUSED = [(name, status) for name, status in DOCUMENTED if status >= 400]
#: The client requests a part of what it downloads to a file only.
ANSWERED = [
    (name, status)
    for name, status in DOCUMENTED
    if status < 300 and (status != 206 or name in ASKED_FIRST)
]


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    """Run one server for all tests: creating a client takes 50 ms for reading certificates."""
    with scripted() as server:
        yield server


@pytest.fixture(params=["sync", "async"], scope="module")
def client(request: pytest.FixtureRequest, server: Scripted) -> Iterator[Any]:
    """Return a client without retries."""
    with connecting(request.param) as connect:
        yield connect(server.url, KEY, retries=ONCE)


@pytest.fixture
def ids(tmp_path: Path) -> Ids:
    return Ids(tmp_path)


def test_every_operation_is_reached() -> None:
    assert CALLS.keys() | NOT_NEEDED == operations().keys()


@pytest.mark.parametrize("name", sorted({name for name, _ in DOCUMENTED}))
def test_304_that_was_not_requested_is_a_typed_error(
    client: Any, server: Scripted, ids: Ids, name: str
) -> None:
    """A cache in between may send one."""
    server.lay_out(*before(name), Answer(304))
    with pytest.raises(UnexpectedResponseError, match="status 304"):
        CALLS[name](client, ids)


@pytest.mark.parametrize(("name", "status"), REFUSED)
def test_refusal_is_a_typed_error(
    client: Any, server: Scripted, ids: Ids, name: str, status: int
) -> None:
    refusal = problem(status, CODES[status], **{"Retry-After": "7"} if status >= 429 else {})
    server.lay_out(*before(name), refusal)
    with pytest.raises(APIError) as caught:
        CALLS[name](client, ids)
    error = caught.value
    assert type(error) is CLASSES[status]
    if name == "readiness":  # documented with a separate response
        assert error.status == 503
        return
    assert (error.status, error.code, error.request_id) == (status, CODES[status], "r1")
    assert (error.detail, error.hint) == (f"This is {CODES[status]}.", "Do something else.")
    (field,) = error.errors
    assert (field.pointer, field.code, field.message) == ("/name", "too_long", "long")
    assert field.hint == "Shorten it."
    assert error.retry_after == (7 if status >= 429 else None)
    where = operations()[name]
    assert server.asked[-1][0] == where[0]
    assert KEY not in str(error) + repr(error)


@pytest.mark.parametrize(("name", "status"), ANSWERED)
def test_answer_is_what_the_document_says(
    client: Any, server: Scripted, ids: Ids, name: str, status: int
) -> None:
    server.lay_out(*before(name), answer(name, status))
    if (name, status) == ("list_events", 204):
        assert list(client.jobs.events(ids.job)) == []
    elif (name, status) == ("list_evaluation_events", 204):
        assert list(client.evaluations.events(ids.evaluation)) == []
    elif (name, status) == ("list_score_batch_events", 204):
        assert list(client.score_batches.events(ids.batch)) == []
    elif (name, status) == ("create_job", 200):
        assert client.jobs.preview({}).object == "job_preview"
    else:
        if status == 206:  # an earlier download stored the beginning
            leave_partial(ids, name)
        CALLS[name](client, ids)
        if name in ASKED_FIRST:
            files = [file for file in ids.directory.rglob("*") if file.is_file()]
            assert [file.read_bytes() for file in files] == [CONTENT]
    method, path, _ = operations()[name]
    assert server.asked[-1][0] == method
    assert path.partition("{")[0] in server.asked[-1][1]
    assert server.asked[-1][2]["Authorization"] == f"Bearer {KEY}"


def test_unchanged_job_is_asked_for_again(connect: Connect, ids: Ids) -> None:
    """Only a long poll with an entity tag gets a 304."""
    queued, ended = (sample({"$ref": "/JobRead"}) | {"status": s} for s in ("queued", "succeeded"))
    tag = {"ETag": 'W/"1"'}
    with scripted(Answer(200, queued, tag), Answer(304, headers=tag), Answer(200, ended)) as server:
        client = connect(server.url, KEY)
        assert client.jobs.wait(ids.job, progress=lambda _: None).status == "succeeded"
    assert [headers.get("If-None-Match") for _, _, headers in server.asked] == [
        None,
        'W/"1"',
        'W/"1"',
    ]


def test_used_up_quota_is_told_from_a_rate(connect: Connect, ids: Ids) -> None:
    refusal = problem(429, "quota_exceeded", **{"x-should-retry": "false"})
    with scripted(refusal) as server:
        client = connect(server.url, KEY)
        with pytest.raises(QuotaExceededError):
            CALLS["create_job"](client, ids)
        assert len(server.asked) == 1


def test_refused_download_is_documented_and_leaves_nothing(connect: Connect, ids: Ids) -> None:
    """A 416 means that the content is shorter than announced."""
    refusal = problem(416, "range_not_satisfiable")
    with scripted(*before("download_archive"), refusal) as server, pytest.raises(APIError):
        CALLS["download_archive"](connect(server.url, KEY), ids)
    assert not (ids.directory / "adapter.tar").exists()


def before(name: str) -> list[Answer]:
    """Return the resource that a download reads first, with the size and sha256 of CONTENT."""
    if name not in ASKED_FIRST:
        return []
    first = operations()[ASKED_FIRST[name]][2]["responses"]["200"]
    document = sample(first["content"]["application/json"]["schema"])
    promised = {"bytes": len(CONTENT), "sha256": SHA256}
    document |= promised
    if name == "get_batch_scores":
        document["result"] = sample({"$ref": "/ScoreBatchResult"}) | promised
    if "archive" in document:
        document["archive"] |= promised
        document["files"] = [{"name": "adapter.bin", "url": "/elsewhere", **promised}]
    return [Answer(200, document)]


def answer(name: str, status: int) -> Answer:
    """Return a documented successful response."""
    described = operations()[name][2]["responses"][str(status)].get("content", {})
    if name in ASKED_FIRST:
        if status == 200:
            return Answer(200, CONTENT)
        span = f"bytes 4-{len(CONTENT) - 1}/{len(CONTENT)}"
        return Answer(206, CONTENT[4:], {"Content-Range": span})
    if "application/json" in described:
        return Answer(status, sample(described["application/json"]["schema"]))
    if "application/x-ndjson" in described:
        return Answer(status, b'{"line": 1}\n')
    return Answer(status, b"# metrics\n" if described else b"")


def leave_partial(ids: Ids, name: str) -> None:
    """Write a partial file with the first four bytes of a download."""
    file = {
        "download_file": ids.directory / "files" / "adapter.bin",
        "download_archive": ids.directory / "adapter.tar",
        "download_dataset": ids.directory / "pairs.jsonl",
        "get_batch_scores": ids.directory / "scores.jsonl",
    }[name]
    file.parent.mkdir(exist_ok=True)
    file.with_name(f"{file.name}.{SHA256[:12]}.part").write_bytes(CONTENT[:4])
