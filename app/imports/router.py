"""Routes of dataset imports from the hub."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response, status

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError
from app.imports import service
from app.imports.schemas import ImportCreate, ImportRead
from app.imports.service import ImportNotFoundError, SourceNotAllowedError
from app.web.dependencies import (
    EngineDep,
    PageQuery,
    ReadEngineDep,
    RequireJobsRead,
    RequireJobsWrite,
    SessionDep,
    SettingsDep,
    TicketsDep,
    page_of,
)
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/datasets/imports", tags=["datasets"], route_class=StrictRoute)

ImportId = Annotated[str, Path(pattern=r"^imp_[0-9a-f]{32}$")]


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_responses(SourceNotAllowedError, QuotaError),
)
def create_import(
    body: ImportCreate,
    response: Response,
    engine: EngineDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    settings: SettingsDep,
    tickets: TicketsDep,
) -> ImportRead:
    """Import a split of a dataset from the hub at one commit. A worker downloads it.

    Its rows are checked and stored like those of an upload. The operator's hub token is used, and
    only sources that the operator allows can be imported.
    """
    with transaction(engine) as session:
        job = service.request_import(session, settings, principal, body)
        audit_log.record(session, actor, "dataset.import", job.id)
    tickets.issue(job.queue)
    response.headers["Location"] = f"/v1/datasets/imports/{job.id}"
    return ImportRead.of(job)


@router.get("")
def list_imports(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("imp"))],
) -> Page[ImportRead]:
    """List imports, newest first. They are kept for 30 days."""
    with transaction(engine) as session:
        rows = service.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[ImportRead].of(rows, page.limit, ImportRead.of, by_id)


@router.get("/{import_id}", responses=error_responses(ImportNotFoundError))
def get_import(
    import_id: ImportId, engine: ReadEngineDep, principal: RequireJobsRead
) -> ImportRead:
    """Get the state of an import. `dataset_id` names the dataset once it has succeeded."""
    with transaction(engine) as session:
        return ImportRead.of(service.get(session, principal.tenant_id, import_id))


@router.post("/{import_id}/cancel", responses=error_responses(ImportNotFoundError))
def cancel_import(
    import_id: ImportId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> ImportRead:
    """Cancel an import. A finished import is not changed."""
    job = service.cancel(session, principal.tenant_id, import_id)
    audit_log.record(session, actor, "import.cancel", import_id)
    return ImportRead.of(job)
