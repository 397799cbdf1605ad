"""The handler of the toy kind: run the task on the job's spec and keep its report as the result."""

from __future__ import annotations

from app.job_queue import queries
from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Run the task without a base model; the job's result is what the task reported."""
    base = steps.fetch_base_model()
    steps.run_trainer(base.order(steps.attempt.settings, "toy", spec=steps.job.spec))
    with steps.attempt.engine.connect() as connection:
        report = queries.report(connection, steps.job.id, "evaluation")
    steps.complete(report or {})
