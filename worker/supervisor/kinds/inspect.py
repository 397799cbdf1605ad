"""Inspect a base model and, with datasets, estimate the training on them."""

from __future__ import annotations

from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Store the facts of the base model; with datasets store the reports on them as well."""
    base = steps.fetch_base_model()
    if steps.job.train_dataset_id is None:
        steps.inspect_base_model(base)
    else:
        plan = steps.compile_plan(base)
        steps.run_inspection(steps.write_training_inputs(base, plan))
    steps.complete({})
