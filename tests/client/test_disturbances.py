"""Both clients with proxies, odd environments, files that change, and malformed responses."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import math
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from plaudit import (
    APIError,
    AsyncPlaudit,
    ConfigurationError,
    ConnectionFailedError,
    InvalidArgumentError,
    JobFailedError,
    NotFoundError,
    Plaudit,
    Retries,
    Retry,
    UnexpectedResponseError,
    retries,
)
from plaudit._uploads import read_source
from plaudit.models import Problem
from tests.client.conftest import Connect, connecting
from tests.client.samples import sample
from tests.client.scripted import Answer, Scripted, problem, scripted

KEY = "plk_test"
ID = "0" * 32
HTML = Answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
BAD_GATEWAY = Answer(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
DATASET = sample({"$ref": "/DatasetRead"})


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connecting(request.param) as connect:
        yield connect


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(Answer(200, {})) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)


def scores(*groups: list[float]) -> Answer:
    """Return a response with the scores of these groups."""
    document = dict(sample({"$ref": "/ScoreResponse"}))
    document["data"] = [
        {"index": i, "id": None, "scores": found, "truncated": [False] * len(found)}
        for i, found in enumerate(groups)
    ]
    return Answer(200, document)


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.example", "http://xn--a.com"])
def test_host_that_no_resolver_accepts_is_not_a_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url is not a URL"):
        Plaudit(url, KEY)


@pytest.mark.parametrize("kind", [Plaudit, AsyncPlaudit])
@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "gopher://127.0.0.1"},
        {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "fe80::/10"},
        {"SSL_CERT_FILE": "/does/not/exist"},
        {"SSL_CERT_FILE": __file__},
    ],
)
def test_unusable_environment_names_its_variables(
    kind: type[Plaudit], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        kind("http://127.0.0.1:8000", KEY)
    assert all(name in str(caught.value.hint) for name in variables)


@pytest.mark.parametrize("status", [401, 404, 407, 413, 429, 500, 502, 503, 504])
def test_error_of_a_proxy_says_what_to_do(connect: Connect, server: Scripted, status: int) -> None:
    server.lay_out(Answer(status, b"<html>", {"Content-Type": "text/html"}))
    with pytest.raises(APIError, match=str(status)) as caught:
        connect(server.url, KEY, retries=Retries(attempts=1)).jobs.get(f"job_{ID}")
    assert "proxies" in str(caught.value.hint)


@pytest.mark.parametrize("status", [200, 202, 206])
def test_deletion_needs_the_confirmation_of_the_service(
    connect: Connect, server: Scripted, status: int
) -> None:
    server.lay_out(Answer(status, HTML.body))
    client = connect(server.url, KEY)
    for delete in (client.jobs.delete, client.adapters.delete, client.datasets.delete):
        with pytest.raises(UnexpectedResponseError, match="does not confirm"):
            delete(f"job_{ID}")


def test_404_of_a_proxy_is_no_deletion(connect: Connect, server: Scripted) -> None:
    server.lay_out(BAD_GATEWAY, Answer(404, b"<html>"))
    with pytest.raises(NotFoundError):
        connect(server.url, KEY).jobs.delete(f"job_{ID}")
    server.lay_out(BAD_GATEWAY, problem(404, "not_found"))
    connect(server.url, KEY).jobs.delete(f"job_{ID}")


@pytest.mark.parametrize("key", ["a\nb", " a", "a ", "ä", "\x7f"])
def test_value_that_no_header_can_have_is_refused(
    connect: Connect, server: Scripted, key: str
) -> None:
    client = connect(server.url, KEY)
    with pytest.raises(InvalidArgumentError, match="Idempotency-Key"):
        client.jobs.create({}, idempotency_key=key)
    with pytest.raises(ValueError, match="If-Score-Spec"):
        client.score(f"ad_{ID}", inputs=[], if_score_spec=key)
    assert server.asked == []


def test_text_that_is_not_unicode_is_refused(connect: Connect, server: Scripted) -> None:
    client = connect(server.url, KEY)
    with pytest.raises(InvalidArgumentError, match="Unicode"):
        client.jobs.list(name="\udcff").page()
    assert server.asked == []


@pytest.mark.parametrize("body", [b"<html>", b"[1]\n", b'{"a": 1}\n{"b"', b"\xff\n"])
def test_scores_that_are_not_json_lines_are_unexpected(
    connect: Connect, server: Scripted, body: bytes
) -> None:
    server.lay_out(Answer(200, body))
    client = connect(server.url, KEY)
    for resource, name in ((client.score_batches, "sb"), (client.evaluations, "eval")):
        with pytest.raises(UnexpectedResponseError):
            resource.scores(f"{name}_{ID}")


@pytest.mark.parametrize(
    "groups", [[], [[0.5]], [[0.5, 1.0, 2.0]], [[0.5, math.nan]], [[math.inf], [0.5]]]
)
def test_reward_function_returns_one_finite_number_per_reply(
    connect: Connect, server: Scripted, groups: list[list[float]]
) -> None:
    server.lay_out(scores(*groups))
    reward = connect(server.url, KEY).reward_function(f"ad_{ID}")
    with pytest.raises(UnexpectedResponseError, match="for 2 replies"):
        reward_of(reward, ["p", "p"], ["a", ""])
    server.lay_out(scores([0.5], [-1.0]))
    assert reward_of(reward, ["p", "q"], ["a", ""]) == [0.5, -1.0]


def reward_of(reward: Any, prompts: list[str], completions: list[str]) -> Any:
    """Call a reward function of either client."""
    found = reward(prompts=prompts, completions=completions)
    if not hasattr(found, "__await__"):
        return found
    return asyncio.run(found)


def test_errors_pass_between_processes(server: Scripted) -> None:
    server.lay_out(problem(422, "invalid_request"))
    client = Plaudit(server.url, KEY, retries=Retries(attempts=1))
    with pytest.raises(APIError) as caught:
        client.jobs.get(f"job_{ID}")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert type(copied) is type(caught.value)
    assert vars(copied) == vars(caught.value)
    assert str(copied) == str(caught.value)
    lost = pickle.loads(pickle.dumps(ConnectionFailedError("lost", hint="Retry.", was_sent=False)))
    assert (str(lost), lost.was_sent) == ("lost Retry.", False)
    client.close()


def test_jobs_are_copied_and_pickled(connect: Connect, server: Scripted) -> None:
    server.lay_out(Answer(200, sample({"$ref": "/JobRead"})))
    job = connect(server.url, KEY).jobs.get(f"job_{ID}")
    job = getattr(job, "_inner", job)
    pickled = pickle.loads(pickle.dumps(job))
    assert pickled.to_dict() == job.to_dict()
    assert copy.deepcopy(job)._jobs is job._jobs
    failed = pickle.loads(pickle.dumps(JobFailedError("failed", job)))
    assert failed.job.to_dict() == job.to_dict()


def test_pipe_is_uploaded_once_and_without_a_length(
    connect: Connect, server: Scripted, tmp_path: Path
) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    server.lay_out(Answer(201, DATASET))
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"chosen": "a"}\n',))
    writer.start()
    connect(server.url, KEY).datasets.upload(pipe)
    writer.join()
    assert "Content-Length" not in server.asked[0][2]


@pytest.mark.parametrize("new", [b"", b'{"chosen": "a"}\n' * 3])
def test_file_that_changes_during_its_upload_is_named(
    connect: Connect, server: Scripted, tmp_path: Path, new: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"chosen": "a"}\n')

    def change(_count: int) -> None:
        raise AssertionError("no bytes of the changed file are sent")

    upload = read_source(path, change)
    path.write_bytes(new)
    with pytest.raises(ValueError, match="changed while it was uploaded"):
        list(upload.chunks())
    server.lay_out(Answer(201, DATASET))
    assert connect(server.url, KEY).datasets.upload(path).id == DATASET["id"]


def test_default_names_are_names(
    connect: Connect, server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    (directory / os.fsdecode(b"\xff.jsonl")).write_bytes(b"{}\n")
    monkeypatch.chdir(directory)
    upload = sample({"$ref": "/UploadRead"})
    whole = sample({"$ref": "/UploadWithParts"})
    part = sample({"$ref": "/UploadPartRead"})
    answers = [Answer(201, upload), Answer(200, {**whole, "parts": []}), Answer(200, part)]
    for source in (".", directory):
        server.lay_out(*answers, Answer(201, DATASET))
        connect(server.url, KEY).datasets.upload(source)
        assert f"name={'d' * 128}&" in f"{server.asked[0][1]}&"
    server.lay_out(Answer(201, DATASET))
    connect(server.url, KEY).datasets.upload(next(directory.iterdir()))
    assert "name=%3F.jsonl" in server.asked[0][1]


def test_directory_among_files_is_named(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="upload it alone"):
        connect("http://127.0.0.1:1", KEY).datasets.upload([tmp_path, tmp_path])


@pytest.mark.parametrize("resource", ["score_batches", "evaluations", "imports"])
def test_waiting_outlasts_the_attempts_of_other_requests(
    connect: Connect, server: Scripted, resource: str
) -> None:
    model = {"score_batches": "ScoreBatchRead", "evaluations": "EvaluationRead"}.get(
        resource, "ImportRead"
    )
    document = dict(sample({"$ref": f"/{model}"}))
    running = Answer(200, document | {"status": "running", "dataset_id": None})
    done = Answer(200, document | {"status": "succeeded", "dataset_id": f"ds_{ID}"})
    server.lay_out(running, *[BAD_GATEWAY] * 8, done)
    client = connect(server.url, KEY, retries=Retries(attempts=2, seconds=20))
    waiting = client.datasets.imports if resource == "imports" else getattr(client, resource)
    assert waiting.wait(f"x_{ID}")
    assert len(server.asked) == 10


def test_progress_is_reported_before_the_first_wait(connect: Connect, server: Scripted) -> None:
    document = dict(sample({"$ref": "/EvaluationRead"}))
    server.lay_out(*(Answer(200, document | {"status": s}) for s in ("running", "succeeded")))
    seen: list[str] = []
    client = connect(server.url, KEY)
    client.evaluations.wait(f"eval_{ID}", progress=lambda found: seen.append(found.status))
    assert seen == ["running", "succeeded"]
    waits = [parse_qs(urlsplit(request[1]).query)["wait"] for request in server.asked]
    assert waits == [["0.0"], ["5.0"]]


def test_download_without_progress_ends(connect: Connect, server: Scripted, tmp_path: Path) -> None:
    """The server does not support ranges, and the connection breaks at the same byte each time."""
    content = b"x" * 2000
    digest = hashlib.sha256(content).hexdigest()
    dataset = {**DATASET, "bytes": len(content), "sha256": digest}
    server.lay_out(Answer(200, dataset), Answer(200, content, sent_bytes=1000))
    seen: list[Retry] = []

    def on_retry(retry: Retry) -> None:
        seen.append(retry)
        if len(seen) > 200:
            raise AssertionError("the download does not end")

    limits = Retries(attempts=3, seconds=0.2, outage_seconds=0.2)
    client = connect(server.url, KEY, retries=limits, on_retry=on_retry)
    with pytest.raises(ConnectionFailedError):
        client.datasets.download(f"ds_{ID}", tmp_path / "pairs.jsonl")
    assert len({request[2].get("Range") for request in server.asked[1:]}) == 2
    server.lay_out(Answer(200, dataset), Answer(200, content))
    path = client.datasets.download(f"ds_{ID}", tmp_path / "pairs.jsonl")
    assert path.read_bytes() == content


def test_problem_of_a_newer_service_is_understood() -> None:
    body = json.loads(problem(422, "new_code").content()) | {"new": [1]}
    assert Problem.model_validate(body).code == "new_code"
