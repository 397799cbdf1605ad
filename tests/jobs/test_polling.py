"""Lists, ETags, long polls and streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import event
from starlette.testclient import TestClient

from app.domain.lifecycle import FailureCode
from tests.services import wait_until
from tests.world import World


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer.json()["data"]]


def test_pages_contain_every_job_once_newest_first(world: World, client: TestClient) -> None:
    train = world.upload()["id"]
    made = [world.submit(train_dataset=train)["id"] for _ in range(7)]
    seen: list[str] = []
    path = "/v1/jobs?limit=3"
    while True:
        answer = client.get(path)
        seen += ids(answer)
        if not answer.json()["has_more"]:
            assert answer.json()["next"] is None
            break
        path = f"/v1/jobs?limit=3&after={answer.json()['next']}"
        world.submit(train_dataset=train)  # newer jobs do not shift the pages
    assert seen == made[::-1]
    assert "plan" not in answer.json()["data"][0]


def test_every_list_is_paged(world: World, client: TestClient) -> None:
    for _ in range(3):
        world.upload()
    answer = client.get("/v1/datasets?limit=2")
    assert (len(ids(answer)), answer.json()["has_more"]) == (2, True)
    rest = client.get(f"/v1/datasets?limit=2&after={answer.json()['next']}")
    assert len(set(ids(answer) + ids(rest))) == 3


def test_jobs_are_filtered(world: World, client: TestClient) -> None:
    train = world.upload()["id"]
    a = world.submit(train_dataset=train, name="a", metadata={"team": "x", "run": "1"})["id"]
    b = world.submit(train_dataset=train, name="b", metadata={"team": "x"})["id"]
    world.claim()  # the older one
    assert ids(client.get("/v1/jobs?name=b")) == [b]
    assert ids(client.get("/v1/jobs?status=running")) == [a]
    assert ids(client.get("/v1/jobs?status=queued")) == [b]
    assert ids(client.get("/v1/jobs?metadata[team]=x")) == [b, a]
    assert ids(client.get("/v1/jobs?metadata[team]=x&metadata[run]=1")) == [a]
    assert ids(client.get("/v1/jobs?metadata[team]=y")) == []
    assert ids(client.get("/v1/jobs?base_model=all-minilm-l6-v2")) == [b, a]
    client.post(f"/v1/jobs/{a}/cancel")
    assert ids(client.get("/v1/jobs?status=cancelling")) == [a]
    assert ids(client.get("/v1/jobs?status=running")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FIRST", [1]),
        ("100%", [1]),
        ("%", [1]),
        ("_", [0, 1]),  # every id contains it; as a wildcard it would match the text below
        ("t_e", []),
        ("minilm", [0, 1]),
        ("second's", [0]),
        ("\\", []),
        ("nothing like it", []),
    ],
)
def test_jobs_are_searched_by_name_id_and_base_model(
    world: World, client: TestClient, text: str, found: list[int]
) -> None:
    train = world.upload()["id"]
    made = [
        world.submit(train_dataset=train, name=name)["id"]
        for name in ("the first 100% clean one", "second's the best")
    ]
    expected = [made[1], made[0]]  # newest first
    answer = client.get("/v1/jobs", params={"q": text})
    assert ids(answer) == [expected[index] for index in found]
    assert ids(client.get("/v1/jobs", params={"q": made[0][-12:].upper()})) == [made[0]]


@pytest.mark.parametrize(
    ("query", "loc"),
    [
        ("q=", "/query/q"),
        (f"q={'x' * 129}", "/query/q"),
        ("q=%00", "/query/q"),
        ("status=no_such", "/query/status"),
        ("metadata[te am]=x", "/query/metadata"),
        ("metadata[team]=%00", "/query/metadata"),
    ],
)
def test_malformed_filter_is_refused(client: TestClient, query: str, loc: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, loc)


@pytest.mark.parametrize("query", ["metadata=x", "metadata.team=x", "metadata[team=x", "name[x]=b"])
def test_unknown_filter_is_refused_and_the_known_ones_are_named(
    client: TestClient, query: str
) -> None:
    (error,) = client.get(f"/v1/jobs?{query}").json()["errors"]
    assert error["code"] == "unknown_field"
    assert "metadata[…], name, q, status" in error["message"]


def test_etag_changes_with_every_change_of_the_job(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    etag = client.get(path).headers["etag"]
    same = client.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    seen = {etag}
    lease = world.claim()
    for act in (
        lambda: world.step(lease, 1),
        lambda: world.step(lease, 2),
        lambda: client.patch(path, json={"name": "n"}),
        lambda: client.post(f"{path}/pause"),
        lambda: world.release(lease),
    ):
        act()
        answer = client.get(path, headers={"If-None-Match": etag})
        assert answer.status_code == 200
        etag = answer.headers["etag"]
        assert etag not in seen
        seen.add(etag)


@pytest.fixture
def served(app: FastAPI, client: TestClient) -> Iterator[httpx.Client]:
    """The service behind a real server: the test client reads complete responses only."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until("the server", lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": client.headers["authorization"]}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http:
        yield http
    server.should_exit = True
    thread.join()


def test_long_poll_returns_when_the_job_changes(
    world: World, served: httpx.Client, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    etag = served.get(path).headers["etag"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            served.get, path, params={"wait": 60}, headers={"If-None-Match": etag}
        )
        wait_until("a waiter", lambda: bool(_waiting(world)))
        world.claim()
        answer = waiting.result(timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (200, "running")


def test_long_poll_until_terminal_returns_at_the_end(
    world: World, served: httpx.Client, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.get, path, params={"wait": 60, "until": "terminal"})
        wait_until("a waiter", lambda: bool(_waiting(world)))
        lease = world.claim()
        world.step(lease, 1)
        world.fail(lease, FailureCode.NAN_LOSS, "nan")
        answer = waiting.result(timeout=30)
    assert answer.json()["status"] == "failed"


def test_long_poll_ends_when_the_job_is_deleted(
    world: World, served: httpx.Client, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.get, f"{path}?wait=60&until=terminal")
        wait_until("a waiter", lambda: bool(_waiting(world)))
        served.post(f"{path}/cancel")
        served.delete(path)
        assert waiting.result(timeout=30).status_code in (200, 404)


def test_long_poll_without_a_change_returns_304(client: TestClient, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}"
    etag = client.get(path).headers["etag"]
    answer = client.get(f"{path}?wait=0.3", headers={"If-None-Match": etag})
    assert answer.status_code == 304
    answer = client.get(f"{path}?wait=0.3&until=terminal")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


def test_long_poll_of_a_changed_or_finished_job_does_not_wait(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    old = client.get(path).headers["etag"]
    client.post(f"{path}/cancel")
    answer = client.get(f"{path}?wait=60", headers={"If-None-Match": old})
    assert answer.json()["status"] == "cancelled"
    assert client.get(f"{path}?wait=60&until=terminal").status_code == 200
    new = answer.headers["etag"]
    assert client.get(f"{path}?wait=60", headers={"If-None-Match": new}).status_code == 304


def test_many_waiters_share_one_query_and_hold_no_connection(
    world: World, served: httpx.Client, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}?wait=60"
    engine = world.client.app.state.engine  # type: ignore[attr-defined]
    with ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(served.get, path) for _ in range(30)]
        wait_until("thirty waiters", lambda: len(_waiting(world)) == 30)
        statements: list[str] = []

        def note(*args: Any) -> None:
            statements.append(args[2])

        event.listen(engine, "before_cursor_execute", note)
        wait_until("some ticks", lambda: len(_on_jobs(statements)) >= 4)
        event.remove(engine, "before_cursor_execute", note)
        assert len(set(_on_jobs(statements))) == 1  # only the query of the watcher
        assert engine.pool.checkedout() <= 2  # of the watcher and of the webhook thread
        world.claim()
        assert {w.result(timeout=30).json()["status"] for w in waiting} == {"running"}


def test_events_are_paged_ascending(world: World, client: TestClient, job: dict[str, Any]) -> None:
    lease = world.claim()
    world.step(lease, 1)
    world.fail(lease, FailureCode.NAN_LOSS, "nan")
    path = f"/v1/jobs/{job['id']}/events"
    first = client.get(f"{path}?limit=2").json()
    assert ([e["id"] for e in first["data"]], first["next"]) == ([1, 2], "2")
    rest = client.get(f"{path}?after=2").json()
    assert [e["id"] for e in rest["data"]] == list(range(3, 3 + len(rest["data"])))
    assert rest["data"][-1]["type"] == "attempt_failed"
    assert rest["has_more"] is False


def test_stream_sends_events_as_they_happen_and_ends_with_the_job(
    world: World, served: httpx.Client, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}/events"
    with served.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = _parsed(answer.iter_lines())
        assert next(events)["event"] == "queued"
        lease = world.claim()
        claimed = next(events)
        assert (claimed["event"], claimed["id"]) == ("claimed", "2")
        world.step(lease, 3, 10)
        found = [next(events), next(events)]
        assert {e["event"] for e in found} == {"phase", "progress"}
        progress = json.loads(next(e for e in found if e["event"] == "progress")["data"])
        assert (progress["step"], progress["total_steps"]) == (3, 10)
        world.fail(lease, FailureCode.NAN_LOSS, "nan")
        rest = list(events)  # the stream ends by itself
    assert rest[-1]["event"] == "attempt_failed"
    assert json.loads(rest[-1]["data"])["data"]["code"] == "nan_loss"


def test_stream_ends_when_its_key_is_revoked(
    world: World, served: httpx.Client, client: TestClient, job: dict[str, Any]
) -> None:
    key = client.post("/v1/api-keys", json={"name": "x", "scopes": ["jobs:read"]}).json()
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {key['secret']}"}
    with served.stream("GET", f"/v1/jobs/{job['id']}/events", headers=headers) as answer:
        events = _parsed(answer.iter_lines())
        assert next(events)["event"] == "queued"
        assert client.delete(f"/v1/api-keys/{key['id']}").status_code == 204
        world.fail(world.claim(), FailureCode.NAN_LOSS, "nan")
        assert list(events) == []


def test_stream_resumes_after_the_last_event_and_then_returns_204(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    world.fail(world.claim(), FailureCode.NAN_LOSS, "nan")
    path = f"/v1/jobs/{job['id']}/events"
    accept = {"Accept": "text/event-stream"}
    seqs = [int(e["id"]) for e in _parsed(iter(client.get(path, headers=accept).text.split("\n")))]
    assert seqs == list(range(1, len(seqs) + 1))
    answer = client.get(path, headers={**accept, "Last-Event-ID": "1"})
    again = [int(e["id"]) for e in _parsed(iter(answer.text.split("\n")))]
    assert again == seqs[1:]
    over = client.get(path, headers={**accept, "Last-Event-ID": str(seqs[-1])})
    assert over.status_code == 204


def _on_jobs(statements: list[str]) -> list[str]:
    """Return the statements that read jobs, without the counts of the reconciler."""
    return [s for s in statements if "FROM jobs" in s and "count(" not in s]


def _waiting(world: World) -> list[Any]:
    watcher = world.client.app.state.watcher  # type: ignore[attr-defined]
    return [waiter for waiters in list(watcher._waiting.values()) for waiter in waiters]


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Parse server-sent events as a browser does."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield fields
            fields = {}
        elif not line:
            fields = {}
