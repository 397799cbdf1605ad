"""Judge adapters on a dataset and store the scores."""

from __future__ import annotations

from app.core.database import reader, transaction
from app.domain.evaluation import UNTRAINED, EvaluationOrder, EvaluationSpec, JudgedAdapter
from app.domain.plan import TrainingPlan
from app.evaluations import publishing
from app.models import Dataset
from worker.ipc.order import WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt
from worker.supervisor.job_inputs import BaseModel
from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Write the adapters and the dataset, score, and publish."""
    base = steps.fetch_base_model()
    order = steps.retry(lambda: _write_inputs(steps.attempt, base))
    steps.score_and_publish(order, publishing.publish)


def _write_inputs(attempt: Attempt, base: BaseModel) -> WorkOrder:
    """Write the files of the adapters, what they were trained on, and the dataset.

    Raises:
        JobFailedError: an adapter was deleted.
    """
    engine, settings, job = attempt.engine, attempt.settings, attempt.job
    spec = EvaluationSpec.model_validate(job.spec)
    wanted = [name for name in spec.adapters if name != UNTRAINED]
    with transaction(reader(engine)) as session:
        dataset = session.get_one(Dataset, job.eval_dataset_id)
        found = [job_inputs.trained_adapter(session, adapter_id) for adapter_id in wanted]
    adapters, training_files = [], dict[str, str]()
    for number, (adapter, trained, files) in enumerate(found):
        attempt.check_interrupt()
        directory = attempt.directory / f"adapter-{number}"
        directory.mkdir(exist_ok=True)
        for file in files:
            job_inputs.fetch_file(engine, file, directory)
        trained_on = trained.train_dataset_id
        if trained_on is not None and trained_on not in training_files:
            training_files[trained_on] = f"train-{number}.jsonl"
            target = attempt.directory / training_files[trained_on]
            job_inputs.write_dataset(engine, trained_on, target)
        adapters.append(
            JudgedAdapter(
                id=adapter.id,
                directory=directory.name,
                plan=TrainingPlan.model_validate(trained.plan),
                train_file=training_files.get(trained_on or ""),
            )
        )
    job_inputs.write_dataset(engine, dataset.id, attempt.directory / "eval.jsonl")
    return base.order(
        settings,
        attempt.kind.action,
        evaluation=EvaluationOrder(
            spec=spec,
            adapters=adapters,
            dataset_sha256=dataset.sha256,
            dataset_format=dataset.summary["format"],
            skipped_rows=sum(each["count"] for each in dataset.summary.get("skipped", [])),
        ),
        eval_file="eval.jsonl",
        **job_inputs.tokenization(settings),
        checkpoints=job_inputs.fetch_checkpoints(engine, job, attempt.directory),
        threads=settings.trainer_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
