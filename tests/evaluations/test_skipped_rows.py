"""Rows that the upload skipped are named in the order for an evaluation."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.testclient import TestClient

from app.base_models.catalogue import load_catalogue
from app.base_models.sources import FetchedModel
from app.job_queue import worker_api
from tests.world import BASE_MODEL, World, pairs
from worker.ipc.order import WorkOrder
from worker.supervisor.attempt import Attempt, Slot
from worker.supervisor.job_inputs import BaseModel
from worker.supervisor.kinds import evaluate

TIE = b'{"prompt": "p", "response_a": "yes", "response_b": "no", "label": "tie"}\n'
A_WINS = b'{"prompt": "q", "response_a": "yes", "response_b": "no", "label": "a"}\n'


def ordered(world: World) -> WorkOrder:
    """The order that a worker writes for the next evaluation."""
    claimed = worker_api.claim(
        world.engine, world.settings, world.settings.queue, "host-ab/0:lease", "host"
    )
    assert claimed is not None
    renewer: Any = SimpleNamespace(interrupt=threading.Event(), is_lost=False)
    spawn: Any = None
    attempt = Attempt(claimed.job, claimed.context, renewer, spawn, Slot("0", 0, None))
    attempt.directory.mkdir(parents=True)
    files = FetchedModel(path=Path("base"), revision=None)
    return evaluate._write_inputs(attempt, BaseModel(load_catalogue().get(BASE_MODEL), files))


def test_order_tells_how_many_rows_the_upload_skipped(world: World, client: TestClient) -> None:
    first = world.request_evaluation()
    order = ordered(world).evaluation
    assert order is not None
    assert order.skipped_rows == 0
    for data, count in ((TIE * 3 + A_WINS * 2, 3), (pairs(40) + b"{}\n" * 2, 2)):
        answer = client.post(
            "/v1/datasets?on_invalid=skip",
            content=data,
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert answer.status_code == 201, answer.text
        assert sum(each["count"] for each in answer.json()["skipped"]) == count
        world.request_evaluation(adapters=first["adapters"], dataset=answer.json()["id"])
        order = ordered(world).evaluation
        assert order is not None
        assert order.skipped_rows == count
