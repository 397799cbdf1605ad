"""Estimate the size and the duration of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from app.domain.compiler import planned_steps
from app.domain.plan import TrainingPlan
from app.jobs import queries
from app.jobs.schemas import JobEstimate


def estimate(
    connection: Connection, plan: TrainingPlan, report: Mapping[str, Any] | None = None
) -> JobEstimate:
    """Estimate a plan; with a dataset ``report``, leave out the pairs that will be dropped."""
    pairs = plan.data.train.pair_count
    if report is not None:
        kept = report["rows"] - report["findings"]["overlong"]["count"]
        is_sample = report.get("rows_looked_at", 0) < report.get("rows_in_all", 0)
        pairs = round(pairs * kept / max(report["rows"], 1)) if is_sample else kept
    steps = planned_steps(pairs - int(pairs * (plan.data.eval_fraction or 0)), plan)
    pace = queries.pair_seconds(connection, plan.base_model.id)
    return JobEstimate(
        trainable_parameters=plan.trainable_parameters,
        total_parameters=plan.total_parameters,
        steps=steps,
        estimated_seconds=pace and round(pace * plan.reward_arguments.pairs_per_step * steps, 1),
    )
