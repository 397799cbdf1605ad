"""Score a dataset with an adapter and store the scores."""

from __future__ import annotations

from app.core.database import reader, transaction
from app.domain.plan import TrainingPlan
from app.domain.score_batch import ScoreBatchOrder, ScoreBatchSpec
from app.domain.scoring import score_spec
from app.models import Dataset
from app.score_batches import publishing
from worker.ipc.order import WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt
from worker.supervisor.job_inputs import BaseModel
from worker.supervisor.job_steps import JobSteps

ADAPTER, ROWS = "adapter", "rows.jsonl"


def run(steps: JobSteps) -> None:
    """Write the adapter and the dataset, score, and publish."""
    base = steps.fetch_base_model()
    order = steps.retry(lambda: _write_inputs(steps.attempt, base))
    steps.score_and_publish(order, publishing.publish)


def _write_inputs(attempt: Attempt, base: BaseModel) -> WorkOrder:
    """Write the adapter's files and the dataset.

    Raises:
        JobFailedError: the adapter was deleted.
    """
    engine, settings, job = attempt.engine, attempt.settings, attempt.job
    spec = ScoreBatchSpec.model_validate(job.spec)
    with transaction(reader(engine)) as session:
        dataset = session.get_one(Dataset, spec.dataset)
        adapter, trained, files = job_inputs.trained_adapter(session, spec.adapter)
    directory = attempt.directory / ADAPTER
    directory.mkdir(exist_ok=True)
    for file in files:
        attempt.check_interrupt()
        job_inputs.fetch_file(engine, file, directory)
    job_inputs.write_dataset(engine, dataset.id, attempt.directory / ROWS)
    return base.order(
        settings,
        attempt.kind.action,
        score_batch=ScoreBatchOrder(
            spec=spec,
            directory=ADAPTER,
            plan=TrainingPlan.model_validate(trained.plan),
            dataset_sha256=dataset.sha256,
            score_spec=score_spec(adapter.summary, {file.name: file.sha256 for file in files}),
        ),
        eval_file=ROWS,
        checkpoints=job_inputs.fetch_checkpoints(engine, job, attempt.directory),
        threads=settings.trainer_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
