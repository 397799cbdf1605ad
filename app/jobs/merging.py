"""Merged exports: base and adapter as one ordinary model, made and verified by a worker."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.service import AdapterNotFoundError
from app.audit import trail
from app.audit.acting import ActorDep
from app.database import new_id, transaction
from app.datasets import service as datasets
from app.dependencies import (
    ArtifactsReaderDep,
    EngineDep,
    JobsWriterDep,
    ReaderDep,
    SettingsDep,
    TicketsDep,
)
from app.domain.lifecycle import JobKind, JobStatus
from app.errors import ConflictError, NotFoundError, QuotaError
from app.jobs import repository
from app.models import Job
from app.problems import documented
from app.settings import Settings

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
AdapterId = Annotated[str, Path(pattern=r"^ad_[0-9a-f]{32}$")]


class MergeNotFoundError(NotFoundError):
    """Nobody asked for a merged export of this adapter."""

    code = "merge_not_found"
    title = "No merged export"


class MergeInexactError(ConflictError):
    """Merging into quantised weights moved scores by up to 0.25: not the same model."""

    code = "merge_inexact"
    title = "This adapter cannot be merged exactly"


class AlreadyMergedError(ConflictError):
    """A merged export is no adapter any more, so there is nothing to merge."""

    code = "already_merged"
    title = "This is a merged export"
    next_step = "Download it: it is an ordinary sequence-classification model."


class MergeRead(BaseModel):
    """A merged export on its way, or where it is."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["merge"] = "merge"
    id: str
    source_adapter_id: str
    status: JobStatus
    adapter_id: str | None = Field(description="The merged model, once succeeded: an adapter's id.")
    failure: str | None

    @classmethod
    def of(cls, job: Job, source_adapter_id: str) -> Self:
        """From its row."""
        return cls(
            id=job.id,
            source_adapter_id=source_adapter_id,
            status=JobStatus(job.status),
            adapter_id=job.adapter_id,
            failure=job.failure_detail,
        )


@router.post(
    "/{adapter_id}/merge",
    status_code=status.HTTP_202_ACCEPTED,
    responses=documented(AdapterNotFoundError, AlreadyMergedError, MergeInexactError, QuotaError),
)
def merge_adapter(
    adapter_id: AdapterId,
    engine: EngineDep,
    principal: JobsWriterDep,
    actor: ActorDep,
    settings: SettingsDep,
    tickets: TicketsDep,
) -> MergeRead:
    """Ask for base and adapter merged into one model; asking again gives the same export."""
    with transaction(engine) as session:
        job = ask(session, settings, principal.tenant_id, adapter_id)
        trail.record(session, actor, "adapter.merge", adapter_id)
    tickets.issue(job.queue)
    return MergeRead.of(job, adapter_id)


@router.get("/{adapter_id}/merge", responses=documented(AdapterNotFoundError, MergeNotFoundError))
def get_merge(adapter_id: AdapterId, engine: ReaderDep, principal: ArtifactsReaderDep) -> MergeRead:
    """How far the merged export of an adapter is."""
    with transaction(engine) as session:
        source = adapters.get(session, principal.tenant_id, adapter_id)
        job = _newest(session, principal.tenant_id, source.job_id)
    if job is None:
        raise MergeNotFoundError(
            f"Nobody asked for a merged export of {adapter_id}.",
            hint=f"POST /v1/adapters/{adapter_id}/merge",
        )
    return MergeRead.of(job, adapter_id)


def ask(session: Session, settings: Settings, tenant_id: str, adapter_id: str) -> Job:
    """The export that is there or under way, or a fresh one after a failure or a deletion."""
    source = adapters.get(session, tenant_id, adapter_id)
    if source.summary.get("is_merged"):
        raise AlreadyMergedError(f"{adapter_id} is a merged export.")
    # Locked, or two who ask at once would both find none.
    trained = session.get_one(Job, source.job_id, with_for_update={"key_share": True})
    known = _newest(session, tenant_id, source.job_id)
    if known is not None and (known.adapter_id or known.status in repository.LIVE):
        return known
    if source.summary.get("quantization", "none") != "none":
        raise MergeInexactError(
            f"{adapter_id} was trained on a {source.summary['quantization']} base model.",
            hint="Load it with PEFT on the same quantised base.",
        )
    datasets.hold_quota(session, settings, tenant_id, 0)
    return repository.insert_job(
        session,
        Job(
            id=new_id("job"),
            tenant_id=tenant_id,
            kind=JobKind.MERGE,
            queue=settings.queue,
            spec=trained.spec,
            spec_sha256=trained.spec_sha256,
            plan=trained.plan,
            base_model=source.base_model,
            parent_job_id=source.job_id,
        ),
    )


def _newest(session: Session, tenant_id: str, job_id: str) -> Job | None:
    return session.scalar(
        select(Job)
        .where(
            Job.tenant_id == tenant_id,
            Job.kind == JobKind.MERGE,
            Job.parent_job_id == job_id,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
