"""The search for scorers goes on after an error that nobody expected."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sqlalchemy import Engine, create_engine

from app.scoring import live_scorers
from app.scoring.live_scorers import LiveScorers

GOOD = "http://scorer:9000"
#: httpx raises an error for it that is none of its TransportErrors.
INVALID = "http://scorer:port"


class Fixed(LiveScorers):
    """Finds fixed rows in place of those of a database."""

    rows = (GOOD,)

    def _registered(self) -> list[str]:
        return list(self.rows)


@pytest.fixture
def no_database() -> Engine:
    return create_engine("sqlite://")


async def found(scorers: LiveScorers) -> frozenset[str]:
    scorers.enter()
    try:
        assert await scorers.wait(5)
        return scorers.urls
    finally:
        scorers.leave()
        await scorers.close()


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))


def test_scorer_with_an_invalid_url_does_not_hide_the_others(no_database: Engine) -> None:
    scorers = Fixed(no_database, "jobs", client(), lambda: None)
    scorers.rows = (INVALID, GOOD)  # type: ignore[assignment]
    assert asyncio.run(found(scorers)) == {GOOD}


def test_search_goes_on_if_no_scorer_can_be_started(
    no_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_scorers, "SEARCH_SECONDS", 0.01)

    def refuse() -> None:
        scorers.rows = (GOOD,)
        raise RuntimeError("can't start new thread")

    scorers = Fixed(no_database, "jobs", client(), refuse)
    scorers.rows = ()  # type: ignore[assignment]
    assert asyncio.run(found(scorers)) == {GOOD}
