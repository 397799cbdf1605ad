"""What an attempt needs before its trainer starts: the base model, a plan, files to read."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import structlog
from sqlalchemy import Engine, select

from app.base_models import facts as known
from app.base_models.catalogue import BaseModelEntry, Catalogue, HubSource
from app.base_models.sources import FetchedModel, fetch
from app.core.database import reader, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.spec import RewardJobSpec
from app.job_queue import checkpoints
from app.jobs.planning import plan_job
from app.models import Adapter, Dataset, Job, StoredFile
from app.storage import artifact_files
from app.storage.artifact_files import ArtifactDamagedError
from worker.ipc.order import MANIFEST, WorkOrder
from worker.supervisor.attempt import JobFailedError

log = structlog.get_logger()

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def entry_of(catalogue: Catalogue, job: Job) -> BaseModelEntry:
    """The catalogue entry that the job names; the operator may have removed it since."""
    return catalogue.get(job.base_model)


def fetch_model(settings: Settings, entry: BaseModelEntry, job: Job) -> FetchedModel:
    """The base model's files on this machine, at the revision that the job was planned with."""
    plan = stored_plan(job)
    return fetch(
        entry,
        settings.model_cache,
        token=settings.hub_token,
        revision=plan.base_model.revision if plan and isinstance(entry.source, HubSource) else None,
        endpoint=settings.hub_endpoint,
        max_bytes=settings.max_base_model_bytes,
    )


def inspect_order(entry: BaseModelEntry, model: FetchedModel, settings: Settings) -> WorkOrder:
    """Look at a base model, load no weights."""
    return WorkOrder(
        action="inspect",
        model_dir=str(model.path),
        model_name=_public_name(entry),
        revision=_commit(entry, model),
        chat_template=entry.chat_template,
        watchdog_seconds=settings.watchdog_seconds,
    )


def known_facts(engine: Engine, entry: BaseModelEntry) -> BaseModelFacts | None:
    """What an earlier inspection found."""
    with transaction(reader(engine)) as session:
        return known.facts_for(session, entry)


def keep_facts(engine: Engine, entry: BaseModelEntry, facts: BaseModelFacts) -> None:
    """Keep what an inspection found for the submits to come."""
    with transaction(engine) as session:
        known.store_facts(session, entry, facts)


def stored_plan(job: Job) -> TrainingPlan | None:
    """The plan that the job was submitted with or that an earlier attempt made."""
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
    return plan_job(spec, entry, facts, train, evaluation)


def write_inputs(
    engine: Engine,
    settings: Settings,
    job: Job,
    entry: BaseModelEntry,
    model: FetchedModel,
    plan: TrainingPlan,
    directory: Path,
) -> WorkOrder:
    """Write the pairs and the checkpoints to try into the work directory."""
    _write_pairs(engine, job.train_dataset_id, directory / "train.jsonl")
    if job.eval_dataset_id:
        _write_pairs(engine, job.eval_dataset_id, directory / "eval.jsonl")
    return WorkOrder(
        action="train",
        model_dir=str(model.path),
        model_name=_public_name(entry),
        revision=_commit(entry, model),
        chat_template=entry.chat_template,
        plan=plan,
        spec=job.spec,
        train_file="train.jsonl",
        eval_file="eval.jsonl" if job.eval_dataset_id else None,
        memory_bytes=settings.trainer_memory_bytes,
        facts=known_facts(engine, entry),
        token_cache=str(settings.token_cache.absolute()) if settings.token_cache_bytes else None,
        token_cache_bytes=settings.token_cache_bytes,
        checkpoints=_fetch_checkpoints(engine, job, directory),
        threads=settings.torch_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
        watchdog_seconds=settings.watchdog_seconds,
    )


def write_merge_inputs(
    engine: Engine,
    settings: Settings,
    job: Job,
    entry: BaseModelEntry,
    model: FetchedModel,
    directory: Path,
) -> WorkOrder:
    """Write the adapter that is to be merged into the work directory.

    Raises:
        JobFailed: it was deleted meanwhile.
    """
    with transaction(reader(engine)) as session:
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
    source = directory / "adapter"
    source.mkdir(exist_ok=True)
    for file in files:
        _fetch_file(engine, file, source)
    return WorkOrder(
        action="merge",
        model_dir=str(model.path),
        model_name=_public_name(entry),
        revision=_commit(entry, model),
        chat_template=entry.chat_template,
        plan=stored_plan(job),
        adapter=source.name,
        threads=settings.torch_threads,
        watchdog_seconds=settings.watchdog_seconds,
    )


def keeps_checkpoint(engine: Engine, job_id: str) -> bool:
    """Whether a cancel was asked to leave a checkpoint."""
    with reader(engine).connect() as connection:
        return bool(
            connection.execute(select(Job.keep_checkpoint).where(Job.id == job_id)).scalar()
        )


def _fetch_checkpoints(engine: Engine, job: Job, directory: Path) -> list[str]:
    """The whole ones, newest first; one for all that were made under the same circumstances.

    Where the trainer refuses that one as foreign, it would refuse the others with it.
    """
    found: dict[str, str] = {}
    for checkpoint, files in checkpoints.list_with_files(engine, job.id):
        target = directory / "resume" / checkpoint.id
        target.mkdir(parents=True, exist_ok=True)
        missing = {file.name: file for file in files}
        try:
            _fetch_file(engine, missing.pop(MANIFEST), target)
            same = json.dumps(json.loads((target / MANIFEST).read_bytes())["same"])
            if same in found:
                continue
            for file in missing.values():
                _fetch_file(engine, file, target)
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


def _fetch_file(engine: Engine, file: StoredFile, directory: Path) -> None:
    artifact_files.fetch(engine, file.blob_id, file.size, directory / file.name, file.sha256)


def _write_pairs(engine: Engine, dataset_id: str | None, target: Path) -> None:
    with transaction(reader(engine)) as session:
        dataset = session.get_one(Dataset, dataset_id)
    artifact_files.fetch(engine, dataset.blob_id, dataset.bytes, target, dataset.sha256)


def _public_name(entry: BaseModelEntry) -> str:
    """What an adapter calls its base: never a path of this machine."""
    return entry.source.repo if isinstance(entry.source, HubSource) else entry.id


def _commit(entry: BaseModelEntry, model: FetchedModel) -> str | None:
    return model.revision if isinstance(entry.source, HubSource) else None
