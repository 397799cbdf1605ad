"""Prepare the inputs of a trainer: the base model, the plan, pairs and checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.base_models import facts as base_model_facts
from app.base_models.catalogue import BaseModelEntry, HubSource
from app.base_models.sources import FetchedModel, fetch
from app.core.database import reader, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.spec import RewardJobSpec
from app.job_queue import checkpoints
from app.jobs.planning import JobDatasets, plan_job
from app.models import Adapter, Dataset, Job, JobEvalDataset, StoredFile
from app.storage import artifact_files
from app.storage.artifact_files import ArtifactDamagedError
from worker.ipc.order import MANIFEST, WorkOrder
from worker.supervisor.attempt import Attempt, JobFailedError
from worker.supervisor.cores import cores_of_slot

log = structlog.get_logger()


@dataclass(frozen=True)
class BaseModel:
    """A base model whose files are on this machine."""

    entry: BaseModelEntry
    files: FetchedModel

    @property
    def public_name(self) -> str:
        """How an adapter names its base model; never a path of this machine."""
        source = self.entry.source
        return source.repo if isinstance(source, HubSource) else self.entry.id

    @property
    def revision(self) -> str | None:
        """The commit of a model from the hub."""
        return self.files.revision if isinstance(self.entry.source, HubSource) else None

    def order(self, settings: Settings, action: str, **fields: Any) -> WorkOrder:
        """Return a work order for this base model."""
        return WorkOrder(
            action=action,
            model_dir=str(self.files.path),
            model_name=self.public_name,
            revision=self.revision,
            chat_template=self.entry.chat_template,
            watchdog_seconds=settings.watchdog_seconds,
            **fields,
        )


def fetch_base_model(settings: Settings, entry: BaseModelEntry, job: Job) -> BaseModel:
    """Fetch the base model's files, at the revision that the job was planned with."""
    plan = stored_plan(job)
    is_pinned = plan is not None and isinstance(entry.source, HubSource)
    files = fetch(
        entry,
        settings.model_cache,
        token=settings.hub_token,
        revision=plan.base_model.revision if plan and is_pinned else None,
        endpoint=settings.hub_endpoint,
        max_bytes=settings.max_base_model_bytes,
    )
    return BaseModel(entry, files)


def known_facts(engine: Engine, entry: BaseModelEntry) -> BaseModelFacts | None:
    """Return the facts that an earlier inspection of the base model found."""
    with transaction(reader(engine)) as session:
        return base_model_facts.facts_for(session, entry)


def store_facts(engine: Engine, entry: BaseModelEntry, facts: BaseModelFacts) -> None:
    """Store the facts that an inspection found, for later jobs."""
    with transaction(engine) as session:
        base_model_facts.store_facts(session, entry, facts)


def stored_plan(job: Job) -> TrainingPlan | None:
    """Return the plan from the submission or from an earlier attempt."""
    return TrainingPlan.model_validate(job.plan) if job.plan else None


def compile_plan(
    engine: Engine, job: Job, entry: BaseModelEntry, facts: BaseModelFacts
) -> TrainingPlan:
    """Compile the job's plan.

    Raises:
        SpecRejectedError: the spec does not fit the base model or the datasets.
    """
    spec = RewardJobSpec.model_validate(job.spec)
    with transaction(reader(engine)) as session:
        train = session.get_one(Dataset, job.train_dataset_id)
        evaluation = session.get(Dataset, job.eval_dataset_id) if job.eval_dataset_id else None
        named = _eval_datasets(session, job)
    return plan_job(spec, entry, facts, JobDatasets(train, evaluation, named))


def _eval_datasets(session: Session, job: Job) -> dict[str, Dataset]:
    """Return the named evaluation datasets of a job."""
    rows = session.execute(
        select(JobEvalDataset.name, Dataset)
        .join(Dataset, Dataset.id == JobEvalDataset.dataset_id)
        .where(JobEvalDataset.job_id == job.id)
        .order_by(JobEvalDataset.name)
    )
    return {row.name: row.Dataset for row in rows}


def write_training_inputs(
    attempt: Attempt, base: BaseModel, plan: TrainingPlan, action: str
) -> WorkOrder:
    """Write the pairs and the checkpoints into the work directory; return the order."""
    engine, settings, job = attempt.engine, attempt.settings, attempt.job
    directory = attempt.directory
    write_dataset(engine, job.train_dataset_id, directory / "train.jsonl")
    if job.eval_dataset_id:
        write_dataset(engine, job.eval_dataset_id, directory / "eval.jsonl")
    with transaction(reader(engine)) as session:
        named = _eval_datasets(session, job)
    for name, dataset in named.items():
        _fetch_dataset(engine, dataset, directory / f"eval-{name}.jsonl")
    return base.order(
        settings,
        action,
        plan=plan,
        spec=job.spec,
        train_file="train.jsonl",
        eval_file="eval.jsonl" if job.eval_dataset_id else None,
        eval_files={name: f"eval-{name}.jsonl" for name in named},
        memory_bytes=settings.trainer_memory_bytes,
        facts=known_facts(engine, base.entry),
        **tokenization(settings),
        checkpoints=fetch_checkpoints(engine, job, directory),
        threads=settings.trainer_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
    )


def tokenization(settings: Settings) -> dict[str, Any]:
    """Return the fields of a work order that define how training files are tokenised."""
    cache = str(settings.token_cache.absolute()) if settings.token_cache_bytes else None
    return {
        "token_cache": cache,
        "token_cache_bytes": settings.token_cache_bytes,
        "processes": cores_of_slot(settings.slots),
    }


def keeps_checkpoint(engine: Engine, job_id: str) -> bool:
    """Return whether a cancelled job should keep a checkpoint."""
    with reader(engine).connect() as connection:
        return bool(
            connection.execute(select(Job.keep_checkpoint).where(Job.id == job_id)).scalar()
        )


def fetch_checkpoints(engine: Engine, job: Job, directory: Path) -> list[str]:
    """Write the undamaged checkpoints, newest first; return their directories.

    Of checkpoints with the same resume fingerprint only the newest is written: if the trainer
    refuses it, it would refuse the others as well.
    """
    found: dict[str, str] = {}
    for checkpoint, files in checkpoints.list_with_files(engine, job.id):
        target = directory / "resume" / checkpoint.id
        target.mkdir(parents=True, exist_ok=True)
        missing = {file.name: file for file in files}
        try:
            fetch_file(engine, missing.pop(MANIFEST), target)
            same = json.dumps(json.loads((target / MANIFEST).read_bytes())["same"])
            if same in found:
                continue
            for file in missing.values():
                fetch_file(engine, file, target)
        except (LookupError, ArtifactDamagedError) as error:
            log.warning(
                "checkpoint_refused",
                job_id=job.id,
                attempt=job.attempt,
                step=checkpoint.step,
                error=str(error),
            )
            continue
        found[same] = str(target.relative_to(directory))
    return list(found.values())


def trained_adapter(session: Session, adapter_id: str) -> tuple[Adapter, Job, list[StoredFile]]:
    """Return an adapter to score with, the job that trained it, and its files.

    Raises:
        JobFailedError: it was deleted.
    """
    adapter = session.get(Adapter, adapter_id)
    if adapter is None:
        raise JobFailedError(
            FailureCode.INVALID_SPEC, f"{adapter_id} was deleted before the job used it"
        )
    statement = select(StoredFile).where(StoredFile.owner_id == adapter_id)
    return adapter, session.get_one(Job, adapter.job_id), list(session.scalars(statement))


def fetch_file(engine: Engine, file: StoredFile, directory: Path) -> None:
    artifact_files.fetch(engine, file.blob_id, file.size, directory / file.name, file.sha256)


def write_dataset(engine: Engine, dataset_id: str | None, target: Path) -> None:
    with transaction(reader(engine)) as session:
        dataset = session.get_one(Dataset, dataset_id)
    _fetch_dataset(engine, dataset, target)


def _fetch_dataset(engine: Engine, dataset: Dataset, target: Path) -> None:
    artifact_files.fetch(engine, dataset.blob_id, dataset.bytes, target, dataset.sha256)
