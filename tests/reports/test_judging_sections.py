"""Sections of judged models show what a reader must know before trusting a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.domain.judging.comparison import compare
from app.domain.judging.metrics import evaluate
from app.domain.judging.probes import PROBES, ProbeScores, probe_metrics
from app.domain.judging.score_table import ScoredRow
from app.reports.judging_sections import comparison_section, model_sections


def judged(**more: Any) -> Any:
    return {"adapter": "ad_1", "metrics": evaluate(table(1.0), seed=0), **more}


def table(skill: float) -> list[ScoredRow]:
    scores = np.random.default_rng(0).normal(size=(20, 2)) + np.array([skill, 0])
    return [
        ScoredRow(line, str(line), (1, 2), tuple(each), (3, 5), slice="only")
        for line, each in enumerate(scores.tolist())
    ]


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_that_were_trained_on_are_a_warning(rows: int) -> None:
    [section] = model_sections(judged(training_overlap={"rows": rows, "share": rows / 20}), {}, [])
    assert len(section.warnings) == (rows > 0)
    assert len(section.notes) == (rows == 0)


def test_probe_without_a_loss_is_neither_suspicious_nor_harmless() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 20))
    prompts = tuple(map(str, range(20)))
    probes = [
        probe_metrics(PROBES[name], ProbeScores(*scores, prompts), 0)
        for name in ("double_spaces", "prompt_swapped")
    ]
    [section] = model_sections(judged(probes=probes), {}, [])
    shown = section.tables[-1]
    assert shown.columns[-1] == "suspicious"
    assert [type(row[-1]) for row in shown.rows] == [bool, type(None)]


def test_difference_of_a_slice_has_an_interval() -> None:
    found = compare(table(0.1), table(2.0), seed=0)
    shown = comparison_section({**found, "dataset_uses": 1}).tables[-1]
    [row] = [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]
    assert [row["from"], row["to"]] == found["slices"][0]["difference"]["interval"]
