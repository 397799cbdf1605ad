"""Public benchmarks as versioned rules that compute metrics from a score table."""

from __future__ import annotations

from app.domain.judging.suites.base import MissingRows, Suite, SuiteResult
from app.domain.judging.suites.others import JUDGE_BENCH, PPE_CORRECTNESS, PPE_HUMAN, RM_BENCH
from app.domain.judging.suites.reward_bench import REWARD_BENCH, REWARD_BENCH_2

SUITES: dict[str, Suite] = {
    suite.id: suite
    for suite in (
        REWARD_BENCH, REWARD_BENCH_2, RM_BENCH, JUDGE_BENCH, PPE_HUMAN, PPE_CORRECTNESS,
    )
}  # fmt: skip

__all__ = ["SUITES", "MissingRows", "Suite", "SuiteResult"]
