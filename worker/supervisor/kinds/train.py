"""Train an adapter and publish it."""

from __future__ import annotations

from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Train by the stored plan, or by one that is compiled now."""
    base = steps.fetch_base_model()
    plan = steps.stored_plan() or steps.compile_plan(base)
    steps.run_and_publish(steps.write_training_inputs(base, plan))
