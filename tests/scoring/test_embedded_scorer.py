"""The scorer that `plaudit serve` starts: it ends when idle and restarts on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import select

from app.core.database import transaction
from app.core.scorer_token import read_token
from app.models import Scorer
from tests.model_factories.orders import TinyBase
from tests.scoring.stage import Stage, Trained, running_stage
from tests.scoring.test_load import own_scorers
from tests.services import wait_until

IDLE_SECONDS = 2.0


@pytest.fixture(scope="module")
def short(
    tiny: TinyBase, trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A service whose scorer ends soon."""
    folder = tmp_path_factory.mktemp("idle")
    with running_stage(
        tiny, trained, folder, options=["--no-worker"], scorer_idle_seconds=IDLE_SECONDS
    ) as stage:
        yield stage


def scorer_urls(stage: Stage) -> list[str]:
    with transaction(stage.engine) as session:
        return list(session.scalars(select(Scorer.url)))


def test_idle_scorer_ends_and_the_next_request_starts_another(short: Stage) -> None:
    assert own_scorers(short) == []  # no scorer runs before the first request
    found = []
    for _ in range(2):
        answer = short.score(model=short.chat, inputs=[{"text": "tea is kind"}])
        found.append((own_scorers(short), answer["data"][0]["scores"]))
        wait_until("the end of the scorer", lambda: own_scorers(short) == [], seconds=60)
        assert scorer_urls(short) == []  # it deleted its row
    (first, scores), (second, scores_again) = found
    assert len(first) == len(second) == 1
    assert first != second
    assert scores == pytest.approx(scores_again, abs=1e-5)


def scrape(stage: Stage) -> dict[str, float]:
    """Return the scorer's metrics without labels."""
    (url,) = scorer_urls(stage)
    assert httpx.get(f"{url}/metrics").status_code == 401
    token = read_token(stage.settings)
    page = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}).text
    found = re.findall(r"^(plaudit_scorer_\w+) (\S+)$", page, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_metrics_count_tokens_batches_waiting_and_adapters(stage: Stage) -> None:
    prompt = [{"role": "user", "content": "please tell me about tea ?"}]
    groups = [{"prompt": prompt, "responses": ["tea is kind .", "tea is rude ."]}]
    stage.score(model=stage.chat, groups=groups)
    stage.score(model=stage.other_chat, groups=groups)
    before = scrape(stage)
    answers = [stage.score(model=stage.chat, groups=groups) for _ in range(3)]
    after = scrape(stage)
    gained = {name: after[name] - before[name] for name in after if name in before}
    usage = [answer["usage"] for answer in answers]
    assert gained["plaudit_scorer_tokens_total"] == sum(u["prompt_tokens"] for u in usage)
    assert gained["plaudit_scorer_computed_tokens_total"] == sum(
        u["computed_tokens"] for u in usage
    )
    assert gained["plaudit_scorer_queue_seconds_count"] == 3
    assert gained["plaudit_scorer_queue_seconds_sum"] > 0
    assert gained["plaudit_scorer_batch_fill_count"] == 3
    tokens = stage.settings.scorer_batch_tokens
    fill = gained["plaudit_scorer_batch_fill_sum"]
    assert fill == pytest.approx(gained["plaudit_scorer_tokens_total"] / tokens)
    wait_until("an empty queue", lambda: scrape(stage)["plaudit_scorer_waiting"] == 0)
    assert after["plaudit_scorer_adapters"] >= 2
    assert after["plaudit_scorer_resident_bytes"] > 10_000
