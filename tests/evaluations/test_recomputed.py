"""Comparisons over HTTP against an independent computation, on tables with many ties and gaps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.domain.judging.score_table import ScoredRow
from tests.evaluations.figures import assert_equal
from tests.evaluations.test_evaluations import finish
from tests.recompute_judging import compare
from tests.world import World


def table(seed: int, skill: float, *, rows: int, prompts: int, slices: int) -> list[ScoredRow]:
    """Return ranked rows with ties of ranks, scores and texts; some share a prompt or are left out.

    The rows are the same for every ``skill``; some are only in one of two tables.
    """
    layout = np.random.default_rng(seed)
    scores = np.random.default_rng([seed, int(100 * skill)])
    found = []
    for line in range(1, rows + 1):
        count = int(layout.integers(2, 5))
        ranks = sorted([1, 2, *layout.integers(1, 4, size=count - 2).tolist()])
        texts = tuple(f"reply {number}" for number in layout.integers(0, 6, size=count).tolist())
        lengths = tuple(layout.integers(1, 90, size=count).tolist())
        label = int(layout.integers(0, slices + 1))
        values = tuple(float(np.round(scores.normal(skill * (rank == 1)), 1)) for rank in ranks)
        if scores.random() < 0.9:
            found.append(
                ScoredRow(
                    line,
                    str(int(layout.integers(prompts))),
                    tuple(ranks),
                    values,
                    lengths,
                    texts=texts,
                    slice=f"s{label}" if label else None,
                )
            )
        else:
            layout.integers(prompts)
    return found


@pytest.mark.parametrize(
    ("rows", "prompts", "slices", "skills"),
    [
        (80, 25, 4, (0.2, 1.5)),
        (300, 60, 40, (0.5, 0.5)),  # more slices than are shown
        (12, 2, 1, (1.0, 0.9)),  # very few prompts
        (500, 90, 6, (0.8, 1.1)),
        (30, 9, 0, (1.2, 1.2)),  # no slice at all
    ],
    ids=["better", "slices", "few", "many", "no slices"],
)
def test_comparison_is_recomputed(
    world: World,
    client: TestClient,
    rows: int,
    prompts: int,
    slices: int,
    skills: tuple[float, float],
) -> None:
    shape = {"rows": rows, "prompts": prompts, "slices": slices}
    first = world.request_evaluation(seed=5)
    finish(world, first, table(3, skills[0], **shape))
    second = world.request_evaluation(adapters=first["adapters"], dataset=first["dataset"])
    finish(world, second, table(3, skills[1] + 0.001, **shape))
    found = client.get("/v1/comparisons", params={"a": first["id"], "b": second["id"]}).json()

    def scores(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
        text = client.get(f"/v1/evaluations/{evaluation['id']}/scores").text
        return [json.loads(line) for line in text.splitlines()]

    expected = compare(scores(first), scores(second), seed=5)
    assert_equal(found, expected)
    assert found["interval_method"] == "bootstrap"
    assert len(found["slices"]) == min(slices, 32)
