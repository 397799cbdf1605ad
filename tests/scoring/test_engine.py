"""The scorer's loop with a real pool: the order of work, and its behaviour when memory is short."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.base_models.catalogue import load_catalogue
from app.domain.scoring import ScoredWork, ScoreItem, ScoreWork
from tests.scoring.stage import Stage
from worker.scorer import engine as engine_module
from worker.scorer.adapter_pool import AdapterPool, FetchedAdapter
from worker.scorer.engine import Engine
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.metrics import ScorerMetrics

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SECONDS = 120


@dataclass
class SlowPool(AdapterPool):
    """A pool that fetches the files of some adapters slowly."""

    far: set[str] = field(default_factory=set)
    arrived: threading.Event = field(default_factory=threading.Event)
    fetched: list[str] = field(default_factory=list)

    def fetch(self, adapter_id: str) -> FetchedAdapter:
        self.fetched.append(adapter_id)
        if adapter_id in self.far:
            assert self.arrived.wait(SECONDS)
        return super().fetch(adapter_id)


def make_pool(stage: Stage, **settings: Any) -> SlowPool:
    own = stage.settings.model_copy(update=settings)
    return SlowPool(stage.engine, own, load_catalogue(stage.settings.base_models))


def work(*adapters: str) -> ScoreWork:
    return ScoreWork(adapters=list(adapters), items=[ScoreItem(text="tea is kind")])


def scores(future: Future[ScoredWork]) -> list[list[float]]:
    return future.result(SECONDS).items[0].scores


def assert_same(found: list[list[float]], expected: list[list[float]]) -> None:
    assert found == [pytest.approx(each, abs=1e-5) for each in expected]


def while_it_runs(engine: Engine, watch: Callable[[], None]) -> None:
    """Run the engine in this thread, which it needs for signals, and ``watch`` in another."""
    stopping = threading.Event()

    def watch_and_stop() -> None:
        try:
            watch()
        finally:
            stopping.set()

    with ThreadPoolExecutor(1) as others:
        watched = others.submit(watch_and_stop)
        engine.run(stopping)
        watched.result()


@pytest.fixture
def pool(stage: Stage) -> Iterator[SlowPool]:
    pool = make_pool(stage)
    yield pool
    pool.arrived.set()


def test_adapter_that_is_fetched_holds_up_no_other_request(stage: Stage, pool: SlowPool) -> None:
    pool.far = {stage.text}
    engine = Engine(pool, pool.settings, ScorerMetrics())
    cold = [engine.submit(work(stage.text)) for _ in range(2)]
    warm = engine.submit(work(stage.chat))

    def watch() -> None:
        assert_same(scores(engine.submit(work(stage.chat))), scores(warm))
        assert not any(future.done() for future in cold)
        assert engine.waiting == 2
        pool.arrived.set()
        assert_same(scores(cold[0]), scores(cold[1]))

    while_it_runs(engine, watch)
    assert pool.fetched.count(stage.text) == 1
    assert engine.waiting == 0
    assert [adapter.pins for adapter in pool.adapters.values()] == [0, 0]


def test_adapter_that_cannot_be_fetched_is_refused_and_others_are_scored(
    stage: Stage, pool: SlowPool
) -> None:
    engine = Engine(pool, pool.settings, ScorerMetrics())
    unknown = "ad_" + "0" * 32
    refused = [engine.submit(work(unknown)), engine.submit(work(stage.chat, unknown))]
    good = engine.submit(work(stage.chat))

    def watch() -> None:
        for future in refused:
            with pytest.raises(ScoreRefusedError, match="there is no adapter"):
                future.result(SECONDS)
        assert scores(good)

    while_it_runs(engine, watch)
    assert [adapter.pins for adapter in pool.adapters.values()] == [0]


def test_members_of_an_ensemble_do_not_drive_each_other_out(stage: Stage) -> None:
    """With room for the base model only, all adapters stay until the request is answered."""
    pool = make_pool(stage, scorer_memory_bytes=1)
    engine = Engine(pool, pool.settings, ScorerMetrics())
    members = (stage.chat, stage.other_chat)

    def watch() -> None:
        together = scores(engine.submit(work(*members)))
        alone = [scores(engine.submit(work(member)))[0] for member in members]
        assert_same(together, alone)

    while_it_runs(engine, watch)


def test_full_queue_refuses_at_once(
    stage: Stage, pool: SlowPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING", 2)
    engine = Engine(pool, pool.settings, ScorerMetrics())
    accepted = [engine.submit(work(stage.chat)) for _ in range(2)]
    with pytest.raises(ScoreRefusedError) as refusal:
        engine.submit(work(stage.chat))
    assert refusal.value.problem.code == "scorer_saturated"

    def watch() -> None:
        assert_same(scores(accepted[0]), scores(accepted[1]))
        assert scores(engine.submit(work(stage.chat)))

    while_it_runs(engine, watch)
