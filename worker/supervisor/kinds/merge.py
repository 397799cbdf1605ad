"""Merge an adapter into its base model and publish the result."""

from __future__ import annotations

from sqlalchemy import select

from app.core.database import reader, transaction
from app.domain.lifecycle import FailureCode
from app.models import Adapter, StoredFile
from worker.ipc.order import WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, JobFailedError
from worker.supervisor.job_inputs import BaseModel
from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Merge the adapter of the job's parent."""
    base = steps.fetch_base_model()
    steps.run_and_publish(steps.retry(lambda: _write_adapter(steps.attempt, base)))


def _write_adapter(attempt: Attempt, base: BaseModel) -> WorkOrder:
    """Write the adapter into the work directory; return the order.

    Raises:
        JobFailedError: the adapter was deleted.
    """
    job, settings = attempt.job, attempt.settings
    with transaction(reader(attempt.engine)) as session:
        files = list(
            session.scalars(
                select(StoredFile)
                .join(Adapter, Adapter.id == StoredFile.owner_id)
                .where(Adapter.job_id == job.parent_job_id)
            )
        )
    if not files:
        raise JobFailedError(
            FailureCode.INVALID_SPEC, "the adapter was deleted before it was merged"
        )
    source = attempt.directory / "adapter"
    source.mkdir(exist_ok=True)
    for file in files:
        job_inputs.fetch_file(attempt.engine, file, source)
    return base.order(
        settings,
        attempt.kind.action,
        plan=job_inputs.stored_plan(job),
        adapter=source.name,
        threads=settings.trainer_threads,
    )
