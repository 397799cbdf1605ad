"""Requests are retried if that is safe, and never create anything twice."""

from __future__ import annotations

import hashlib
import socket
import time
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.settings import Settings
from plaudit import (
    APIError,
    ConnectionFailedError,
    Plaudit,
    QuotaExceededError,
    RateLimitedError,
    RequestTimeoutError,
    Retries,
    Retry,
    UnavailableError,
)
from plaudit.errors import error_class
from plaudit.retries import MAX_DELAY_SECONDS, Attempts, retry_after
from tests.client.conftest import Connect
from tests.client.proxy import Fault, Passed, bad_line, losing_answers
from tests.client.samples import sample
from tests.client.scripted import Answer, problem, scripted
from tests.services import free_port
from tests.site import Site
from tests.world import BASE_MODEL, World, pairs

KEY = "plk_test"
WEIGHTS = Random(0).randbytes(2_000_000)
JOB = sample({"$ref": "/JobRead"})
SPEC = {"base_model": BASE_MODEL, "train_dataset": f"ds_{'0' * 32}"}


@pytest.fixture
def dataset(world: World) -> str:
    return str(world.upload()["id"])


@pytest.mark.parametrize("lost", [1, 2])
def test_job_whose_answer_was_lost_is_there_once(
    connect: Connect, site: Site, key: str, dataset: str, lost: int
) -> None:
    with bad_line(site.url, losing_answers("POST", lost)) as line:
        client = connect(line.url, key)
        job = client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
        sent = line.sent("POST", "/v1/jobs")
        assert len(sent) == lost + 1
        assert len({request.headers["Idempotency-Key"] for request in sent}) == 1
        assert [found.id for found in client.jobs.list()] == [job.id]


def test_clone_whose_answer_was_lost_is_there_once(
    connect: Connect, site: Site, key: str, dataset: str
) -> None:
    parent = connect(site.url, key).jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
    with bad_line(site.url, losing_answers("POST", 2)) as line:
        client = connect(line.url, key)
        clone = client.jobs.clone(parent.id, overrides={"priority": 3})
        assert len(line.sent("POST", f"/v1/jobs/{parent.id}/clone")) == 3
        assert [found.id for found in client.jobs.list()] == [clone.id, parent.id]


def test_each_job_has_a_key_of_its_own(
    connect: Connect, site: Site, key: str, dataset: str
) -> None:
    client = connect(site.url, key)
    spec = {"base_model": BASE_MODEL, "train_dataset": dataset}
    assert client.jobs.create(spec).id != client.jobs.create(spec).id


def test_deletion_whose_answer_was_lost_is_no_error(
    connect: Connect, site: Site, key: str, world: World
) -> None:
    job = connect(site.url, key).jobs.get(world.submit()["id"]).cancel()
    with bad_line(site.url, losing_answers("DELETE")) as line:
        client = connect(line.url, key)
        client.jobs.delete(job.id)
        assert len(line.sent("DELETE", f"/v1/jobs/{job.id}")) == 2
        assert list(client.jobs.list()) == []


def test_what_cannot_be_repeated_is_sent_once(connect: Connect, site: Site, key: str) -> None:
    with bad_line(site.url, losing_answers("POST", 9)) as line:
        client = connect(line.url, key)
        for create in (
            lambda: client.api_keys.create(name="new", scopes=["jobs:read"]),
            lambda: client.webhooks.create(url="http://localhost:9/"),
        ):
            with pytest.raises(ConnectionFailedError):
                create()
        assert len(line.requests) == 2
        assert len([key for key in client.api_keys.list() if key.name == "new"]) == 1


def test_what_did_not_reach_the_service_is_sent_again(
    connect: Connect, key: str, settings: Settings
) -> None:
    """Requests that are not idempotent are retried as well."""
    retried: list[Retry] = []
    site = Site(settings)  # not started yet

    def start(retry: Retry) -> None:
        retried.append(retry)
        if len(retried) == 1:
            site.start()

    client = connect(site.url, key, on_retry=start)
    try:
        assert client.api_keys.create(name="new", scopes=["jobs:read"]).secret
    finally:
        site.stop()
    assert len(retried) == 1
    assert isinstance(retried[0].error, ConnectionFailedError)
    assert not retried[0].error.was_sent


def test_upload_is_sent_again_if_its_rows_can_be_read_again(
    connect: Connect, site: Site, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(pairs())
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    with bad_line(site.url, losing_answers("POST", 2)) as line:
        client = connect(line.url, key)
        assert client.datasets.upload(file).pair_count == 20
        assert len(line.requests) == 3
        assert line.requests[0].body == line.requests[2].body == pairs()
        assert [found.name for found in client.datasets.list()] == ["pairs.jsonl"]
    with bad_line(site.url, losing_answers("POST", 1)) as line:
        client = connect(line.url, key)
        with pytest.raises(ConnectionFailedError):
            client.datasets.upload(iter(rows))
        assert len(line.requests) == 1
        assert client.datasets.upload(rows).pair_count == 3


def test_download_goes_on_where_the_line_broke(
    connect: Connect, site: Site, key: str, world: World, tmp_path: Path
) -> None:
    world.submit()
    files = {"adapter_model.safetensors": WEIGHTS, "README.md": b"# Card"}
    adapter_id = world.publish(world.claim(), files)
    with bad_line(site.url, breaking_downloads(700_000)) as line:
        client = connect(line.url, key)
        client.adapters.download(adapter_id, tmp_path / "files")
        weights = line.sent("GET", f"/v1/adapters/{adapter_id}/files/adapter_model.safetensors")
        client.adapters.download_archive(adapter_id, tmp_path / "adapter.tar")
    found = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    assert found == files
    ranges = [request.headers.get("Range") for request in weights]
    assert ranges == [None, "bytes=700000-", "bytes=1400000-"]
    digest = hashlib.sha256((tmp_path / "adapter.tar").read_bytes()).hexdigest()
    assert digest == client_sha256(world, adapter_id)


def client_sha256(world: World, adapter_id: str) -> str:
    archive = world.client.get(f"/v1/adapters/{adapter_id}").json()["archive"]
    return str(archive["sha256"])


def breaking_downloads(count: int) -> Any:
    """Return a script that closes the connection after this many bytes of every file."""

    def script(_: int, passed: Passed) -> Fault | None:
        is_file = "/files/" in passed.path or passed.path.endswith("/archive")
        return Fault(sent_bytes=count) if is_file else None

    return script


def test_events_go_on_where_the_line_broke(
    connect: Connect, site: Site, key: str, world: World
) -> None:
    job = world.submit()
    world.publish(world.claim(), {"README.md": b"# Card"})
    whole = list(connect(site.url, key).jobs.events(job["id"], follow=False))

    def script(number: int, passed: Passed) -> Fault | None:
        return Fault(sent_bytes=150 * (number + 1)) if number < 4 else None

    with bad_line(site.url, script) as line:
        events = list(connect(line.url, key).jobs.events(job["id"]))
    assert events == whole
    resumed = [int(request.headers["Last-Event-ID"]) for request in line.requests]
    assert resumed == sorted(resumed)
    assert len(set(resumed)) >= 3
    assert resumed[-1] == whole[-1].id


def test_retry_after_of_the_service_is_honoured(
    connect: Connect, settings: Settings, key_for: Any
) -> None:
    """A client that exceeds the rate limit retries after the time in ``Retry-After``."""
    busy = settings.model_copy(update={"rate_burst": 2, "rate_per_second": 1.0})
    site = Site(busy)
    site.start()
    retried: list[Retry] = []
    try:
        client = connect(site.url, key_for("acme"), on_retry=retried.append)
        found = [client.queue.list().page() for _ in range(4)]
    finally:
        site.stop()
    assert len(found) == 4
    assert retried
    for retry in retried:
        assert isinstance(retry.error, RateLimitedError)
        assert retry.error.retry_after is not None
        assert retry.delay_seconds >= retry.error.retry_after


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"Retry-After": "0"}, 3),
        ({"Retry-After": "0", "x-should-retry": "true"}, 3),
        ({"Retry-After": "0", "x-should-retry": "false"}, 1),
        ({"Retry-After": "600"}, 1),  # longer than a call is retried
        ({}, 3),
    ],
)
def test_advice_of_the_service_is_followed(headers: dict[str, str], asked: int) -> None:
    away = problem(503, "unavailable", **headers)
    with scripted(away, away, Answer(200, JOB)) as server:
        client = Plaudit(server.url, KEY, retries=Retries(attempts=3, seconds=30))
        if asked == 3:
            assert client.jobs.create(SPEC).id == JOB["id"]
        else:
            with pytest.raises(UnavailableError):
                client.jobs.create(SPEC)
        client.close()
    assert len(server.asked) == asked
    assert len({headers["Idempotency-Key"] for _, _, headers in server.asked}) == 1


def test_attempts_are_counted_and_the_last_error_is_raised() -> None:
    with scripted(problem(503, "unavailable")) as server:
        client = Plaudit(server.url, KEY, retries=Retries(attempts=3))
        with pytest.raises(UnavailableError):
            client.jobs.get(f"job_{'0' * 32}")
        client.close()
    assert len(server.asked) == 3


def test_absent_service_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = Plaudit(url, KEY, retries=Retries(attempts=1))
    with pytest.raises(ConnectionFailedError, match=url) as caught:
        client.jobs.get(f"job_{'0' * 32}")
    client.close()
    assert not caught.value.was_sent


def test_service_that_does_not_answer_is_not_waited_for(silent: str) -> None:
    client = Plaudit(silent, KEY, timeout=0.2, retries=Retries(attempts=2))
    with pytest.raises(RequestTimeoutError) as caught:
        client.jobs.get(f"job_{'0' * 32}")
    client.close()
    assert isinstance(caught.value, TimeoutError)


@pytest.fixture
def silent() -> Any:
    """Run a server that accepts connections and does not respond."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


errors = st.one_of(
    st.builds(lambda was_sent: ConnectionFailedError("gone", was_sent=was_sent), st.booleans()),
    st.builds(
        lambda status, retry, should: advised(status, retry, should),
        st.sampled_from([400, 404, 408, 409, 422, 429, 500, 502, 503, 504]),
        st.none() | st.floats(0, 200),
        st.none() | st.booleans(),
    ),
)


def advised(status: int, seconds: float | None, should_retry: bool | None) -> APIError:
    error = error_class(status, "code")(status, "code", "detail")
    error.retry_after, error.should_retry = seconds, should_retry
    return error


@given(
    error=errors,
    is_repeatable=st.booleans(),
    seconds=st.floats(0, 100),
    attempts=st.integers(1, 5),
)
def test_no_request_is_repeated_that_may_have_been_carried_out(
    error: APIError | ConnectionFailedError, is_repeatable: bool, seconds: float, attempts: int
) -> None:
    policy = Retries(attempts, seconds)
    retry = Attempts(policy, is_repeatable=is_repeatable).after(error)
    if retry is None:
        return
    assert attempts > 1
    assert 0 <= retry.delay_seconds <= seconds
    if isinstance(error, ConnectionFailedError):
        assert is_repeatable or not error.was_sent
    else:
        assert error.should_retry is not False
        assert is_repeatable or error.status == 429  # rejected before it had an effect
        if error.retry_after is not None:
            assert retry.delay_seconds >= error.retry_after


@given(st.integers(2, 50))
def test_backoff_grows_to_a_bound(attempts: int) -> None:
    counted = Attempts(Retries(attempts, 1e9), is_repeatable=True)
    error = ConnectionFailedError("gone")
    delays = [retry.delay_seconds for _ in range(attempts) if (retry := counted.after(error))]
    assert len(delays) == attempts - 1
    assert all(
        0.5 * 2 ** min(i, 5) / 2 <= delay <= MAX_DELAY_SECONDS for i, delay in enumerate(delays[:5])
    )
    assert max(delays) <= MAX_DELAY_SECONDS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_in_the_future_is_counted_from_now() -> None:
    found = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert found is not None
    assert 55 < found <= 60


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"seconds": -1}, {"outage_seconds": -1}])
def test_retries_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one attempt"):
        Retries(**wrong)  # type: ignore[arg-type]


def test_used_up_quota_is_not_asked_for_again(
    connect: Connect, settings: Settings, key: str, site: Site, world: World, dataset: str
) -> None:
    retried: list[Retry] = []
    full = Site(settings.model_copy(update={"quota_queued": 1}))
    full.start()
    try:
        client = connect(full.url, key, on_retry=retried.append)
        client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
        with pytest.raises(QuotaExceededError):
            client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
    finally:
        full.stop()
    assert retried == []
