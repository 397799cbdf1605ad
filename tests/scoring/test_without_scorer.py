"""Without a scorer, clients always get 503 with Retry-After."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Response
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.settings import Settings
from app.models import Scorer
from app.scoring.keeper import ScorerKeeper
from tests.services import free_port, wait_until
from tests.world import World

#: Hold time that is long enough for a second request.
HOLD_SECONDS = 2.0


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A service that may hold one scoring request, and whose own scorer does not start."""
    monkeypatch.setattr(ScorerKeeper, "want", lambda _keeper: None)
    update = {"scoring_hold_seconds": HOLD_SECONDS, "scoring_waiting": 1}
    return settings.model_copy(update=update)


@pytest.fixture
def senders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def adapter(world: World) -> str:
    world.know_base_model()
    world.submit()
    return world.publish(world.claim(), {"adapter_config.json": b"{}"})


#: The path of a request and its body, and where its clients read the reason.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "own": ("/v1/score", {"inputs": [{"text": "tea"}]}),
    "OpenRLHF": ("/m/{adapter}/get_reward", {"query": ["tea"]}),
    "slime": ("/rm/{adapter}", {"prompt": "a", "response": "b"}),
}


def check(answer: Response, code: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, code), answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert problem.keys().isdisjoint({"data", "rewards", "scores"})


@pytest.mark.parametrize("name", REQUESTS)
def test_held_request_gets_503_and_a_further_one_at_once(
    app: FastAPI, client: TestClient, adapter: str, senders: ThreadPoolExecutor, name: str
) -> None:
    path, body = REQUESTS[name]
    path = path.format(adapter=adapter)
    body = body | ({"model": adapter} if name == "own" else {})
    held = senders.submit(client.post, path, json=body)
    wait_until("a held request", lambda: app.state.dispatcher.waiting == 1)
    check(client.post(path, json=body), "scorer_saturated")
    assert not held.done()
    check(held.result(), "scorer_unavailable")
    page = client.get("/metrics").text
    assert "plaudit_scoring_waiting 0.0" in page


def test_scorer_that_is_registered_and_does_not_answer_counts_as_none(
    client: TestClient, engine: Engine, settings: Settings, adapter: str
) -> None:
    """Register a scorer whose machine is gone and whose row has not expired yet."""
    with transaction(engine) as session:
        url = f"http://127.0.0.1:{free_port()}"
        session.add(
            Scorer(id=f"gone-{uuid.uuid4().hex}", queue=settings.queue, url=url, state="ready")
        )
    body = {"model": adapter, "inputs": [{"text": "tea"}]}
    check(client.post("/v1/score", json=body), "scorer_unavailable")
