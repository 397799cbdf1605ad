"""Requests that provoke each documented status of each operation.

A status of an operation is provoked by its entry in ``SPECIAL``, else by the entry of ``GENERAL``
for the status.
"""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from httpx import Response
from pydantic import SecretStr
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app.auth.scopes import Scope
from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.progress import Reported
from app.evaluations import comparing
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.main import create_app
from app.models import DatasetUpload
from tests.api.documented import Operation
from tests.api.scene import BODIES, UNKNOWN, UPLOADS, Scene
from tests.world import BASE_MODEL, World, claim_when_there, pairs

Provoke = Callable[[Scene, Operation], Response]


# -- statuses that operations have in common ---------------------------------------------------


def send_for_known_ids(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, scene.known_ids(operation))


def send_for_unknown_ids(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation)


def send_without_key(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, key="")


def send_without_the_scope(scene: Scene, operation: Operation) -> Response:
    """Return the response to the first rejected key that has one scope other than admin."""
    keys = [scene.key_for(scope) for scope in Scope if scope != Scope.ADMIN]
    answers = [scene.send(operation, key=key) for key in keys]
    return min(answers, key=lambda answer: answer.status_code != 403)


def send_unknown_parameter(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, query="?no_such_parameter=1")


def send_too_often(scene: Scene, operation: Operation) -> Response:
    limited = scene.service.limited
    headers = {"Authorization": f"Bearer {scene.key}"}
    assert limited.get("/v1/jobs", headers=headers).status_code == 200
    return scene.send(operation, client=limited)


def send_large_body(scene: Scene, operation: Operation) -> Response:
    size = 2 << 20
    if operation.name in UPLOADS:
        size = scene.service.settings.max_upload_bytes + 1
    headers = {"Content-Length": str(size)}
    if operation.name not in UPLOADS:
        headers["Content-Type"] = "application/json"
    return scene.send(operation, content=b"{", headers=headers)


@contextmanager
def failing_database(scene: Scene, error: Exception) -> Iterator[None]:
    """Make every statement of the service fail with this error."""

    def fail(*_: Any) -> NoReturn:
        raise OperationalError("SELECT", {}, error)

    assert scene.client.get("/v1/jobs").status_code == 200  # the key is known from here on
    engines = (scene.service.app.state.engine, scene.service.app.state.reader)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", fail)


def send_without_database(scene: Scene, operation: Operation) -> Response:
    with failing_database(scene, Exception("the database is away")):
        return scene.send(operation, UNKNOWN | {"base_model_id": BASE_MODEL})


def send_range(value: str) -> Provoke:
    def send(scene: Scene, operation: Operation) -> Response:
        return scene.send(operation, scene.known_ids(operation), headers={"Range": value})

    return send


def send_known_etag(scene: Scene, operation: Operation) -> Response:
    ids = scene.known_ids(operation)
    tag = scene.send(operation, ids).headers["ETag"]
    return scene.send(operation, ids, headers={"If-None-Match": tag})


GENERAL: dict[int, Provoke] = {
    200: send_for_known_ids,
    201: send_for_known_ids,
    202: send_for_known_ids,
    204: send_for_known_ids,
    206: send_range("bytes=0-0"),
    304: send_known_etag,
    401: send_without_key,
    403: send_without_the_scope,
    404: send_for_unknown_ids,
    413: send_large_body,
    416: send_range("bytes=999999999-"),
    422: send_unknown_parameter,
    429: send_too_often,
    503: send_without_database,
}


# -- statuses that need more -------------------------------------------------------------------


def send_spec(query: str = "") -> Provoke:
    return lambda scene, operation: scene.send(operation, json=scene.world.spec(), query=query)


def send_for_job(make: Callable[[Scene], dict[str, Any]], **more: Any) -> Provoke:
    """Send the request for the job that ``make`` returns."""
    return lambda scene, operation: scene.send(
        operation, {**UNKNOWN, "job_id": make(scene)["id"]}, **more
    )


def submitted(scene: Scene) -> dict[str, Any]:
    return scene.submit()


def succeeded(scene: Scene) -> dict[str, Any]:
    return scene.succeed()


def running(scene: Scene) -> dict[str, Any]:
    job = scene.submit()
    scene.claim(job)
    return job


def reported(scene: Scene) -> dict[str, Any]:
    """Return a job whose training has ended with a report."""
    job = scene.submit()
    document = {"plots": {}, "model": None, "baselines": {}, "worst_pairs": []}
    report = Reported(name="full", document=document)
    worker_api.record_progress(scene.claim(job), Progress(reports=[report]))
    return job


def cancelled(scene: Scene) -> dict[str, Any]:
    job = scene.submit()
    assert scene.post(f"jobs/{job['id']}/cancel").status_code == 200
    return job


def cancelling(scene: Scene) -> dict[str, Any]:
    job = running(scene)
    assert scene.post(f"jobs/{job['id']}/cancel").json()["status"] == "cancelling"
    return job


def resume_stream_of_finished_job(scene: Scene, operation: Operation) -> Response:
    job = cancelled(scene)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1000"}
    return scene.send(operation, {"job_id": job["id"]}, headers=headers)


def resume_stream_of_finished_work(scene: Scene, operation: Operation) -> Response:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1000"}
    ids = {"evaluation_id": scene.evaluated()["id"], "batch_id": scene.scored_batch()["id"]}
    return scene.send(operation, ids, headers=headers)


def report_with_a_worker(scene: Scene, operation: Operation) -> Response:
    """Run a service that waits for inspections, and a worker that runs this one."""
    settings = scene.service.settings
    patient = settings.model_copy(
        update={"preflight_wait_seconds": 30, "queue": f"queue-{secrets.token_hex(4)}"}
    )
    world = World(scene.client, scene.service.engine, patient)
    ids = scene.known_ids(operation)

    def inspect() -> None:
        lease = claim_when_there(world)
        report = Reported(name="dataset", document={"rows": 20})
        worker_api.record_progress(lease, Progress(reports=[report]))
        worker_api.complete(lease, {})

    worker = threading.Thread(target=inspect)
    worker.start()
    try:
        with TestClient(create_app(patient)) as client:
            return scene.send(operation, ids, client=client)
    finally:
        worker.join()


def upload(*contents: bytes, **headers: str) -> Provoke:
    """Upload the files one after another."""

    def send(scene: Scene, operation: Operation) -> Response:
        answers = [scene.send(operation, content=c, headers=headers) for c in contents]
        return answers[-1]

    return send


def upload_to_full_disk(scene: Scene, operation: Operation) -> Response:
    with failing_database(scene, OSError(errno.ENOSPC, "no space left")):
        return scene.send(operation, content=PAIR % b"another")


def send_part(number: int, **more: Any) -> Provoke:
    """Send a part of an upload that already has part 1."""

    def send(scene: Scene, operation: Operation) -> Response:
        upload_id = scene.upload_id()
        body = {"content": pairs(3, upload_id), **more}
        return scene.send(operation, {"upload_id": upload_id, "number": str(number)}, **body)

    return send


def send_part_to_full_disk(scene: Scene, operation: Operation) -> Response:
    upload_id = scene.upload_id()
    with failing_database(scene, OSError(errno.ENOSPC, "no space left")):
        return scene.send(operation, {"upload_id": upload_id, "number": "1"}, content=b"{}")


def finish_on_full_disk(scene: Scene, operation: Operation) -> Response:
    ids = {"upload_id": scene.upload_id()}
    with failing_database(scene, OSError(errno.ENOSPC, "no space left")):
        return scene.send(operation, ids)


def use_upload_that_is_finishing(scene: Scene, operation: Operation) -> Response:
    ids = {"upload_id": scene.upload_id(), "number": "1"}
    with transaction(scene.service.engine) as session:
        session.execute(
            update(DatasetUpload)
            .where(DatasetUpload.id == ids["upload_id"])
            .values(status="finishing", finish_id="fin_1", finish_expires_at=now_ms() + 60_000)
        )
    return scene.send(operation, ids)


def finish_twice(scene: Scene, operation: Operation) -> Response:
    ids = {"upload_id": scene.upload_id()}
    assert scene.send(operation, ids).status_code == 201
    return scene.send(operation, ids)


def delete_used_dataset(scene: Scene, operation: Operation) -> Response:
    job = scene.submit()
    return scene.send(operation, {"dataset_id": job["spec"]["train_dataset"]})


def merge_merged(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, {"adapter_id": scene.succeed(is_merged=True)["adapter_id"]})


def get_merge(scene: Scene, operation: Operation) -> Response:
    ids = scene.known_ids(operation)
    assert scene.post(f"adapters/{ids['adapter_id']}/merge").status_code == 202
    return scene.send(operation, ids)


def get_push(scene: Scene, operation: Operation) -> Response:
    ids = scene.known_ids(operation)
    answer = scene.post(f"adapters/{ids['adapter_id']}/push", json=BODIES["push_adapter"])
    assert answer.status_code == 202
    return scene.send(operation, ids)


def scrape_protected_metrics(scene: Scene, operation: Operation) -> Response:
    settings = scene.service.settings.model_copy(update={"metrics_token": SecretStr("x" * 32)})
    with TestClient(create_app(settings)) as client:
        return scene.send(operation, client=client)


def ask_service_without_database(scene: Scene, operation: Operation) -> Response:
    settings = scene.service.settings.model_dump(exclude={"database_url"}) | {
        "database_url": "postgresql+psycopg://postgres@127.0.0.1:1/x"
    }
    with TestClient(create_app(Settings(**settings))) as client:
        return scene.send(operation, client=client)


def score_with_another_spec(scene: Scene, operation: Operation) -> Response:
    body = {"model": scene.succeed()["adapter_id"], "inputs": [{"text": "a"}]}
    return scene.send(operation, json=body, headers={"If-Score-Spec": "sha256:0"})


def score_too_much(scene: Scene, operation: Operation) -> Response:
    headers = {"Content-Length": str(17 << 20), "Content-Type": "application/json"}
    return scene.send(operation, content=b"{", headers=headers)


def request_evaluation(scene: Scene, operation: Operation) -> Response:
    body = {
        "adapters": [scene.succeed()["adapter_id"]],
        "dataset": scene.world.upload()["id"],
    }
    return scene.send(operation, json=body)


def send_for_evaluation(make: Callable[[Scene], dict[str, Any]]) -> Provoke:
    return lambda scene, operation: scene.send(operation, {"evaluation_id": make(scene)["id"]})


def queued_evaluation(scene: Scene) -> dict[str, Any]:
    return scene.evaluation()


def finished_evaluation(scene: Scene) -> dict[str, Any]:
    return scene.evaluated()


def request_score_batch(scene: Scene, operation: Operation) -> Response:
    body = {"adapter": scene.succeed()["adapter_id"], "dataset": scene.world.upload()["id"]}
    return scene.send(operation, json=body)


def send_for_queued_batch(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, {"batch_id": scene.score_batch()["id"]})


def send_for_scored_batch(scene: Scene, operation: Operation) -> Response:
    return scene.send(operation, {"batch_id": scene.scored_batch()["id"]})


def compare_evaluations(scene: Scene, operation: Operation) -> Response:
    first = scene.evaluated()
    second = scene.evaluated(adapters=first["adapters"], dataset=first["dataset"])
    return scene.send(operation, query=f"?a={first['id']}&b={second['id']}")


def compare_unfinished(scene: Scene, operation: Operation) -> Response:
    found = scene.evaluation()["id"]
    return scene.send(operation, query=f"?a={found}&b={found}")


def compare_large(scene: Scene, operation: Operation) -> Response:
    first = scene.evaluated()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "MAX_SCORE_BYTES", 1)
        query = f"?a={first['id']}&b={first['id']}&b_adapter=base:untrained"
        return scene.send(operation, query=query)


def list_with_unknown_key(scene: Scene, operation: Operation) -> Response:
    """The response itself needs no database."""
    key = scene.key_for(Scope.JOBS_READ)
    with failing_database(scene, Exception("the database is away")):
        return scene.send(operation, key=key)


PAIR = b'{"prompt": "q", "chosen": "%s", "rejected": "no"}\n'
SPECIAL: dict[tuple[str, int], Provoke] = {
    ("metrics", 401): scrape_protected_metrics,
    ("readiness", 503): ask_service_without_database,
    ("create_job", 200): send_spec("?dry_run=true"),
    ("create_job", 201): send_spec(),
    ("clone_job", 409): send_for_job(submitted, json={"from_checkpoint": True}),
    ("update_job", 409): send_for_job(running, json={"priority": 1}),
    ("delete_job", 204): send_for_job(cancelled),
    ("delete_job", 409): send_for_job(submitted),
    ("cancel_job", 409): send_for_job(succeeded),
    ("pause_job", 409): send_for_job(succeeded),
    ("resume_job", 409): send_for_job(cancelling),
    ("list_events", 204): resume_stream_of_finished_job,
    ("get_dataset_report", 200): report_with_a_worker,
    ("create_dataset", 200): upload(PAIR % b"same", PAIR % b"same"),
    ("create_dataset", 201): upload(PAIR % b"new"),
    ("create_dataset", 415): upload(b"<pair/>", **{"Content-Type": "text/xml"}),
    ("create_dataset", 507): upload_to_full_disk,
    ("delete_dataset", 409): delete_used_dataset,
    ("put_upload_part", 200): send_part(1),
    ("put_upload_part", 201): send_part(2),
    ("put_upload_part", 409): use_upload_that_is_finishing,
    ("put_upload_part", 415): send_part(2, headers={"Content-Type": "text/xml"}),
    ("put_upload_part", 507): send_part_to_full_disk,
    ("delete_upload", 409): use_upload_that_is_finishing,
    ("finish_upload", 200): finish_twice,
    ("finish_upload", 409): use_upload_that_is_finishing,
    ("finish_upload", 507): finish_on_full_disk,
    ("create_scores", 412): score_with_another_spec,
    ("create_scores", 413): score_too_much,
    ("create_score_batch", 201): request_score_batch,
    ("cancel_score_batch", 200): send_for_queued_batch,
    ("cancel_score_batch", 409): send_for_scored_batch,
    ("delete_score_batch", 409): send_for_queued_batch,
    ("get_batch_scores", 409): send_for_queued_batch,
    ("merge_adapter", 409): merge_merged,
    ("get_merge", 200): get_merge,
    ("get_push", 200): get_push,
    ("list_suites", 503): list_with_unknown_key,
    ("create_evaluation", 201): request_evaluation,
    ("cancel_evaluation", 200): send_for_evaluation(queued_evaluation),
    ("cancel_evaluation", 409): send_for_evaluation(finished_evaluation),
    ("delete_evaluation", 409): send_for_evaluation(queued_evaluation),
    ("get_scores", 409): send_for_evaluation(queued_evaluation),
    ("get_worst_pairs", 409): send_for_evaluation(queued_evaluation),
    ("list_evaluation_events", 204): resume_stream_of_finished_work,
    ("list_score_batch_events", 204): resume_stream_of_finished_work,
    **{
        (name, status): provoke
        for name in ("compare", "get_comparison_page")
        for status, provoke in (
            (200, compare_evaluations),
            (409, compare_unfinished),
            (413, compare_large),
        )
    },
    ("get_evaluation_page", 409): send_for_evaluation(queued_evaluation),
    ("get_evaluation_document", 409): send_for_evaluation(queued_evaluation),
    ("get_report_page", 200): send_for_job(reported),
    ("get_report_document", 200): send_for_job(reported),
}
