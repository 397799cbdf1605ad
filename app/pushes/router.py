"""Routes of pushes: uploads of adapters to repositories of the operator's hub."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, status

from app.adapters.service import AdapterNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError
from app.pushes import service
from app.pushes.schemas import PushCreate, PushRead
from app.pushes.service import PushNotFoundError, TargetNotAllowedError
from app.web.dependencies import (
    EngineDep,
    ReadEngineDep,
    RequireArtifactsRead,
    RequireJobsWrite,
    SettingsDep,
    TicketsDep,
)
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=StrictRoute)
AdapterId = Annotated[str, Path(pattern=r"^ad_[0-9a-f]{32}$")]


@router.post(
    "/{adapter_id}/push",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_responses(AdapterNotFoundError, TargetNotAllowedError, QuotaError),
)
def push_adapter(
    adapter_id: AdapterId,
    body: PushCreate,
    engine: EngineDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    settings: SettingsDep,
    tickets: TicketsDep,
) -> PushRead:
    """Request that a worker uploads the adapter's files to a repository of the operator's hub.

    The worker uses the operator's token. The operator must have allowed the repository.
    """
    with transaction(engine) as session:
        job = service.request_push(session, settings, principal.tenant_id, adapter_id, body)
        audit_log.record(session, actor, "adapter.push", adapter_id)
    tickets.issue(job.queue)
    return PushRead.of(job)


@router.get(
    "/{adapter_id}/push", responses=error_responses(AdapterNotFoundError, PushNotFoundError)
)
def get_push(
    adapter_id: AdapterId, engine: ReadEngineDep, principal: RequireArtifactsRead
) -> PushRead:
    """Get the newest push of an adapter."""
    with transaction(engine) as session:
        return PushRead.of(service.newest_push(session, principal.tenant_id, adapter_id))
