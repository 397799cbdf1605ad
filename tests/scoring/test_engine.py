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
from worker.reward_model.packaged_adapter import AdapterWeights
from worker.scorer import engine as engine_module
from worker.scorer.adapter_pool import AdapterPool, FetchedAdapter, LoadingAdapter
from worker.scorer.engine import Engine
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.metrics import ScorerMetrics

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SECONDS = 120


@dataclass
class SlowPool(AdapterPool):
    """A pool in which one step of some adapters takes long."""

    slow: set[str] = field(default_factory=set)
    step: str = "fetch"
    has_begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    fetched: list[str] = field(default_factory=list)

    def fetch(self, adapter_id: str) -> FetchedAdapter:
        self.fetched.append(adapter_id)
        self._take_long("fetch", adapter_id)
        return super().fetch(adapter_id)

    def load(self, loading: LoadingAdapter) -> None:
        super().load(loading)
        self._take_long("load", loading.fetched.row.id)

    def _take_long(self, step: str, adapter_id: str) -> None:
        if step == self.step and adapter_id in self.slow:
            self.has_begun.set()
            assert self.may_end.wait(SECONDS)


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
    pool.may_end.set()


@pytest.mark.parametrize("step", ["fetch", "load"])
def test_adapter_on_its_way_holds_up_no_request_for_others(
    stage: Stage, pool: SlowPool, step: str
) -> None:
    pool.slow, pool.step = {stage.text}, step
    engine = Engine(pool, pool.settings, ScorerMetrics())
    warm = engine.submit(work(stage.chat))

    def watch() -> None:
        expected = scores(warm)
        cold = [engine.submit(work(stage.text)) for _ in range(2)]
        assert pool.has_begun.wait(SECONDS)
        assert_same(scores(engine.submit(work(stage.chat))), expected)
        cold.append(engine.submit(work(stage.text, stage.chat)))
        assert_same(scores(engine.submit(work(stage.chat))), expected)
        assert not any(future.done() for future in cold)
        assert engine.waiting == 3
        pool.may_end.set()
        assert_same(scores(cold[0]), scores(cold[1]))
        assert_same(scores(cold[2])[1:], expected)

    while_it_runs(engine, watch)
    assert pool.fetched.count(stage.text) == 1
    assert engine.waiting == 0
    assert [adapter.pins for adapter in pool.adapters.values()] == [0, 0]


def test_adapters_that_come_together_load_their_base_model_once(
    stage: Stage, pool: SlowPool
) -> None:
    engine = Engine(pool, pool.settings, ScorerMetrics())
    together = [stage.chat, stage.other_chat, stage.text]
    futures = [engine.submit(work(each)) for each in together]

    def watch() -> None:
        for future in futures:
            assert scores(future)

    while_it_runs(engine, watch)
    assert len({id(adapter.model) for adapter in pool.adapters.values()}) == 1
    assert pool.base_count == 1


def test_adapter_that_cannot_be_loaded_is_refused_and_its_place_is_free(
    stage: Stage, pool: SlowPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory")

    engine = Engine(pool, pool.settings, ScorerMetrics())
    with monkeypatch.context() as patch:
        patch.setattr(AdapterWeights, "read", fail)
        lost = engine.submit(work(stage.chat))

        def watch() -> None:
            with pytest.raises(MemoryError):
                lost.result(SECONDS)

        while_it_runs(engine, watch)
    assert (pool.bytes, pool.base_count) == (0, 0)
    while_it_runs(engine, lambda: scores(engine.submit(work(stage.chat))))


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
