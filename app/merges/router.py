"""Routes of merged exports: an adapter and its base model merged into one full model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, status

from app.adapters import service as adapters
from app.adapters.service import AdapterNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError
from app.merges import service
from app.merges.errors import AlreadyMergedError, MergeInexactError, MergeNotFoundError
from app.merges.schemas import MergeRead
from app.web.dependencies import (
    EngineDep,
    ReadEngineDep,
    RequireArtifactsRead,
    RequireJobsWrite,
    SettingsDep,
    TicketsDep,
)
from app.web.problem_details import error_responses

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
AdapterId = Annotated[str, Path(pattern=r"^ad_[0-9a-f]{32}$")]


@router.post(
    "/{adapter_id}/merge",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_responses(
        AdapterNotFoundError, AlreadyMergedError, MergeInexactError, QuotaError
    ),
)
def merge_adapter(
    adapter_id: AdapterId,
    engine: EngineDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    settings: SettingsDep,
    tickets: TicketsDep,
) -> MergeRead:
    """Request a full model with the adapter merged into its base model.

    A worker makes it. A repeated request returns the same merge, unless the merge has failed.
    """
    with transaction(engine) as session:
        job = service.request_merge(session, settings, principal.tenant_id, adapter_id)
        audit_log.record(session, actor, "adapter.merge", adapter_id)
    tickets.issue(job.queue)
    return MergeRead.of(job, adapter_id)


@router.get(
    "/{adapter_id}/merge", responses=error_responses(AdapterNotFoundError, MergeNotFoundError)
)
def get_merge(
    adapter_id: AdapterId, engine: ReadEngineDep, principal: RequireArtifactsRead
) -> MergeRead:
    """Get the status of the merged export of an adapter."""
    with transaction(engine) as session:
        source = adapters.get(session, principal.tenant_id, adapter_id)
        job = service.newest_merge(session, principal.tenant_id, source.job_id)
    if job is None:
        raise MergeNotFoundError(
            f"No merged export of {adapter_id} was requested.",
            hint=f"Request one: POST /v1/adapters/{adapter_id}/merge",
        )
    return MergeRead.of(job, adapter_id)
