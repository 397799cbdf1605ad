"""GET /v1/audit. Requires the admin scope."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from app.audit import log as audit_log
from app.audit.log import Action
from app.core.database import transaction
from app.models import AuditRecord
from app.web.dependencies import PageQuery, ReadEngineDep, RequireAdmin, page_of
from app.web.pagination import Page, Timestamp, by_id

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class AuditRead(BaseModel):
    """An entry of the audit log."""

    object: Literal["audit_record"] = "audit_record"
    id: str
    at: Timestamp
    action: Action
    object_id: str = Field(description="Id of the affected resource, which may be deleted by now.")
    key_id: str | None = Field(description="Null for the service itself and for its operator.")
    request_id: str | None
    client: str | None = Field(description="The address that the request came from.")

    @classmethod
    def of(cls, row: AuditRecord) -> Self:
        """Build it from the database row."""
        return cls.model_validate(row, from_attributes=True)


@router.get("")
def list_audit(
    engine: ReadEngineDep,
    principal: RequireAdmin,
    page: Annotated[PageQuery, Depends(page_of("audit"))],
) -> Page[AuditRead]:
    """List the actions of this tenant's API keys, newest first."""
    with transaction(engine) as session:
        rows = audit_log.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[AuditRead].of(rows, page.limit, AuditRead.of, by_id)
