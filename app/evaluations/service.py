"""Request, find, cancel and delete evaluations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.database import new_id, newest_first
from app.core.errors import FieldProblem
from app.core.settings import Settings
from app.domain.evaluation import EvaluationSpec
from app.domain.lifecycle import JobStatus
from app.evaluations.errors import (
    EvaluationFinishedError,
    EvaluationLiveError,
    EvaluationNotFoundError,
    EvaluationUnfinishedError,
    InvalidEvaluationError,
)
from app.evaluations.resolving import resolve
from app.evaluations.schemas import evaluation_id
from app.job_queue import idempotency, kinds, scoring_jobs
from app.job_queue.queries import JobRow
from app.jobs.service import check_queue_quota
from app.models import Evaluation, Job, StoredFile
from app.storage.quota import check_storage_quota


@dataclass(frozen=True)
class ScoreFile:
    """A file with the scores of each row; ``adapter`` is the model that gave them."""

    adapter: str
    file: StoredFile
    seed: int
    dataset_sha256: str


def request_evaluation(
    session: Session, settings: Settings, tenant_id: str, spec: EvaluationSpec, key: str | None
) -> tuple[Job, bool]:
    """Queue an evaluation; return its job, and whether an earlier request with ``key`` did so.

    Raises:
        KeyReusedError, QuotaError, InvalidEvaluationError
    """
    fingerprint = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    # Look for it before the checks: the resources that the spec names may be deleted by now.
    if known := idempotency.find_replay(session, tenant_id, key, fingerprint):
        return known, True
    resolved = resolve(session, tenant_id, spec)
    check_queue_quota(session, settings, tenant_id, kinds.EVALUATE)
    check_storage_quota(session, settings, tenant_id, 0)
    first = resolved.trained[0]
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        kind=kinds.EVALUATE.name,
        queue=kinds.EVALUATE.queue(settings),
        name=spec.name,
        spec=spec.model_dump(mode="json") | {"dataset": resolved.dataset.id},
        spec_sha256=fingerprint,
        needs_gpu=any(map(scoring_jobs.needs_gpu, resolved.trained)),
        plan=first.plan,  # pins the revision of the base model
        base_model=first.base_model,
        eval_dataset_id=resolved.dataset.id,
        idempotency_key=key,
    )
    try:
        job, is_replay = idempotency.insert_once(session, job)
    except IntegrityError as error:  # a foreign key: the dataset was deleted meanwhile
        raise InvalidEvaluationError(
            "The dataset was deleted.",
            problems=[FieldProblem("/dataset", "dataset_not_found", "was deleted", "Upload it.")],
        ) from error
    if is_replay:
        return job, True
    session.add(
        Evaluation(
            id=evaluation_id(job.id),
            tenant_id=tenant_id,
            job_id=job.id,
            dataset_sha256=resolved.dataset.sha256,
        )
    )
    return job, False


def get(session: Session, tenant_id: str, evaluation: str) -> Job:
    """Return the job of an evaluation of this tenant, or raise EvaluationNotFoundError."""
    job = session.scalar(
        select(Job)
        .join(Evaluation, Evaluation.job_id == Job.id)
        .where(Evaluation.id == evaluation, Evaluation.tenant_id == tenant_id)
    )
    if job is None:
        raise not_found(evaluation)
    return job


def not_found(evaluation: str) -> EvaluationNotFoundError:
    """Return the error for an evaluation that does not exist or belongs to another tenant."""
    return EvaluationNotFoundError(f"There is no evaluation {evaluation}.")


def list_page(
    connection: Connection, tenant_id: str, limit: int, after: str | None
) -> list[JobRow]:  # fmt: skip
    """Return up to ``limit + 1`` evaluations, newest first, without their results."""
    statement = _of_tenant(tenant_id)
    return list(connection.execute(newest_first(statement, Evaluation.id, limit, after)))


def find(connection: Connection, tenant_id: str, evaluation: str) -> JobRow:
    """Return the job of an evaluation without its result, or raise EvaluationNotFoundError."""
    statement = _of_tenant(tenant_id).where(Evaluation.id == evaluation)
    if (row := connection.execute(statement).one_or_none()) is None:
        raise not_found(evaluation)
    return row


def _of_tenant(tenant_id: str) -> Select[Any]:
    return (
        select(*scoring_jobs.LISTED)
        .join(Evaluation, Evaluation.job_id == Job.id)
        .where(Evaluation.tenant_id == tenant_id)
    )


def uses(session: Session, tenant_id: str, dataset_sha256: str) -> int:
    """Return the number of succeeded evaluations of this tenant on these rows."""
    return session.execute(
        select(func.count())
        .select_from(Evaluation)
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.tenant_id == tenant_id,
            Evaluation.dataset_sha256 == dataset_sha256,
            Job.status == JobStatus.SUCCEEDED,
        )
    ).scalar_one()


def dataset_uses(session: Session, job: Job) -> int:
    """Return the number of succeeded evaluations on the same rows."""
    row = session.get_one(Evaluation, evaluation_id(job.id))
    return uses(session, row.tenant_id, row.dataset_sha256)


def cancel(session: Session, tenant_id: str, evaluation: str) -> Job:
    """Cancel a waiting evaluation immediately, or ask a running one to stop.

    Repeating it is not an error.

    Raises:
        EvaluationNotFoundError, EvaluationFinishedError
    """
    job = get(session, tenant_id, evaluation)
    if (cancelled := scoring_jobs.cancel(session, job)) is None:
        raise EvaluationFinishedError(f"{evaluation} is {job.status}.")
    return cancelled


def remove(session: Session, tenant_id: str, evaluation: str) -> None:
    """Delete a finished evaluation with its scores, events and logs.

    Raises:
        EvaluationNotFoundError, EvaluationLiveError
    """
    if not scoring_jobs.remove(session, get(session, tenant_id, evaluation), evaluation):
        raise EvaluationLiveError(
            f"{evaluation} is not finished.",
            hint=f"Cancel it first: POST /v1/evaluations/{evaluation}/cancel.",
        )


def score_file(
    session: Session, tenant_id: str, evaluation: str, adapter: str | None
) -> ScoreFile:  # fmt: skip
    """Return the score file of one model, by default of the first adapter.

    Raises:
        EvaluationNotFoundError: there is no such evaluation, or it has no such model.
        EvaluationUnfinishedError: the evaluation has not succeeded.
    """
    job = get(session, tenant_id, evaluation)
    if job.status != JobStatus.SUCCEEDED:
        raise EvaluationUnfinishedError(f"{evaluation} is {job.status}, so it has no result.")
    spec = EvaluationSpec.model_validate(job.spec)
    name = adapter or next(iter(_models(job.result)), "")
    file = session.get(StoredFile, (evaluation, f"{name.replace(':', '-')}.jsonl"))
    if file is None:
        raise EvaluationNotFoundError(
            f"{evaluation} has no scores of {name}.",
            hint=f"Its models are {', '.join(_models(job.result))}.",
        )
    row = session.get_one(Evaluation, evaluation)
    return ScoreFile(name, file, spec.seed, row.dataset_sha256)


def _models(result: dict[str, Any] | None) -> list[str]:
    """Return the models of a result, adapters first."""
    names = [model["adapter"] for model in (result or {}).get("models", [])]
    return sorted(names, key=lambda name: not name.startswith("ad_"))
