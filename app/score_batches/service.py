"""Request the scoring of a whole dataset, find batches, cancel and delete them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.service import AdapterNotFoundError
from app.core.database import new_id, newest_first
from app.core.errors import FieldProblem
from app.core.settings import Settings
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.lifecycle import JobStatus
from app.domain.plan import TrainingPlan
from app.domain.score_batch import SCORES_FILE, ScoreBatchSpec
from app.job_queue import idempotency, kinds, scoring_jobs
from app.job_queue.queries import JobRow
from app.jobs.service import check_queue_quota
from app.models import Dataset, Job, StoredFile
from app.score_batches.errors import (
    InvalidScoreBatchError,
    ScoreBatchFinishedError,
    ScoreBatchLiveError,
    ScoreBatchNotFoundError,
    ScoreBatchUnfinishedError,
)
from app.storage.quota import check_storage_quota


@dataclass(frozen=True)
class BatchRequest:
    """A request for a batch, with its idempotency key."""

    spec: ScoreBatchSpec
    idempotency_key: str | None = None

    @property
    def digest(self) -> str:
        """Return a hash (sha256, hex) that is equal for requests with the same content."""
        document = [kinds.SCORE.name, self.spec.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def request_batch(
    session: Session, settings: Settings, tenant_id: str, request: BatchRequest
) -> tuple[Job, bool]:
    """Queue a batch; return its job and whether an earlier request created it already.

    Raises:
        InvalidScoreBatchError, KeyReusedError, QuotaError
    """
    spec, key = request.spec, request.idempotency_key
    if known := idempotency.find_replay(session, tenant_id, key, request.digest):
        return known, True
    trained = _check(session, tenant_id, spec)
    check_queue_quota(session, settings, tenant_id, kinds.SCORE)
    check_storage_quota(session, settings, tenant_id, 0)
    job = Job(
        id=new_id(kinds.SCORE.id_prefix),
        tenant_id=tenant_id,
        kind=kinds.SCORE.name,
        queue=kinds.SCORE.queue(settings),
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        spec_sha256=request.digest,
        needs_gpu=scoring_jobs.needs_gpu(trained),
        plan=trained.plan,  # pins the revision of the base model
        base_model=trained.base_model,
        eval_dataset_id=spec.dataset,
        idempotency_key=key,
    )
    try:
        return idempotency.insert_once(session, job)
    except IntegrityError as error:  # a foreign key
        raise _invalid([_deleted()]) from error


def get(session: Session, tenant_id: str, batch_id: str) -> Job:
    """Return the job of a batch of this tenant, or raise ScoreBatchNotFoundError."""
    job = session.scalar(
        select(Job).where(
            Job.id == batch_id, Job.tenant_id == tenant_id, Job.kind == kinds.SCORE.name
        )
    )
    if job is None:
        raise _not_found(batch_id)
    return job


def find(connection: Connection, tenant_id: str, batch_id: str) -> JobRow:
    """Return the job of a batch without its result, or raise ScoreBatchNotFoundError."""
    row = connection.execute(_of_tenant(tenant_id).where(Job.id == batch_id)).one_or_none()
    if row is None:
        raise _not_found(batch_id)
    return row


def list_page(
    connection: Connection, tenant_id: str, limit: int, after: str | None
) -> list[JobRow]:  # fmt: skip
    """Return up to ``limit + 1`` batches, newest first, without their results."""
    statement = _of_tenant(tenant_id)
    return list(connection.execute(newest_first(statement, Job.id, limit, after)))


def cancel(session: Session, tenant_id: str, batch_id: str) -> Job:
    """Cancel a waiting batch, or ask a running one to stop. Repeating it is not an error."""
    job = get(session, tenant_id, batch_id)
    if (cancelled := scoring_jobs.cancel(session, job)) is None:
        raise ScoreBatchFinishedError(f"{batch_id} is {job.status}.")
    return cancelled


def remove(session: Session, tenant_id: str, batch_id: str) -> None:
    """Delete a finished batch with its scores, events and logs."""
    if not scoring_jobs.remove(session, get(session, tenant_id, batch_id), batch_id):
        raise ScoreBatchLiveError(
            f"{batch_id} is not finished.",
            hint=f"Cancel it first: POST /v1/score/batches/{batch_id}/cancel.",
        )


def score_file(session: Session, tenant_id: str, batch_id: str) -> StoredFile:
    """Return the file of scores.

    Raises:
        ScoreBatchNotFoundError
        ScoreBatchUnfinishedError: the batch has not succeeded.
    """
    job = get(session, tenant_id, batch_id)
    if job.status != JobStatus.SUCCEEDED:
        raise ScoreBatchUnfinishedError(f"{batch_id} is {job.status}, so it has no result.")
    return session.get_one(StoredFile, (batch_id, SCORES_FILE))


def _of_tenant(tenant_id: str) -> Select[Any]:
    return select(*scoring_jobs.LISTED).where(
        Job.tenant_id == tenant_id, Job.kind == kinds.SCORE.name
    )


def _not_found(batch_id: str) -> ScoreBatchNotFoundError:
    return ScoreBatchNotFoundError(f"There is no score batch {batch_id}.")


def _check(session: Session, tenant_id: str, spec: ScoreBatchSpec) -> Job:
    """Return the job that trained the adapter.

    Raises:
        InvalidScoreBatchError: names every field that does not fit.
    """
    problems: list[FieldProblem] = []
    dataset = trained = None
    try:
        dataset = datasets.get(session, tenant_id, spec.dataset)
    except DatasetNotFoundError as error:
        hint = "GET /v1/datasets lists your datasets."
        problems.append(FieldProblem("/dataset", error.code, error.detail, hint))
    try:
        adapter = adapters.get(session, tenant_id, spec.adapter)
    except AdapterNotFoundError as error:
        hint = "GET /v1/adapters lists your adapters."
        problems.append(FieldProblem("/adapter", error.code, error.detail, hint))
    else:
        trained = session.get_one(Job, adapter.job_id)
        if adapter.summary.get("is_merged"):
            message = f"{spec.adapter} is a merged export"
            hint = "Score with the adapter that it was merged from: its scores are the same."
            problems.append(FieldProblem("/adapter", "adapter_merged", message, hint))
        elif dataset is not None:
            problems += _format_problems(dataset, trained)
    if problems or trained is None:
        raise _invalid(problems)
    return trained


def _format_problems(dataset: Dataset, trained: Job) -> list[FieldProblem]:
    """Check that the adapter can score the rows: texts can become messages, but not vice versa."""
    trained_on = TrainingPlan.model_validate(trained.plan).data.format
    summary = dataset.summary
    is_plain = summary["prompt"] == "explicit" and not summary["is_rendered"]
    if trained_on == summary["format"] or (summary["format"] == "text" and is_plain):
        return []
    message = f"the dataset is {summary['format']}, and the adapter was trained on {trained_on}"
    hint = "Use a dataset of the same format. Texts with a prompt of their own serve both."
    return [FieldProblem("/dataset", "format_differs", message, hint)]


def _deleted() -> FieldProblem:
    return FieldProblem("/dataset", "dataset_not_found", "was deleted", "Upload it again.")


def _invalid(problems: list[FieldProblem]) -> InvalidScoreBatchError:
    first = problems[0]
    return InvalidScoreBatchError(
        f"{first.loc}: {first.message}", hint=first.hint, problems=problems
    )
