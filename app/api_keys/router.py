"""Routes of /v1/api-keys. They require the admin scope."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Path, Request, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.api_keys import service
from app.api_keys.service import ApiKeyNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.key_ring import KeyRing
from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.errors import FieldProblem, InvalidError
from app.domain.training_spec import CleanText
from app.models import ApiKey
from app.web.dependencies import PageQuery, ReadEngineDep, RequireAdmin, SessionDep, page_of
from app.web.pagination import LAST_MS, Page, Timestamp, by_id
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/api-keys", tags=["api keys"], route_class=StrictRoute)


class ApiKeyCreate(BaseModel):
    """A new API key."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "nightly", "scopes": ["jobs:read", "jobs:write"]}]
        },
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)]
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_at: AwareDatetime | None = Field(None, description="Null for a key that never expires.")


class ApiKeyRead(BaseModel):
    """An API key without its secret."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    scopes: list[Scope]
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None = Field(description="Accurate to one minute.")

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Build it from the database row."""
        return cls.model_validate(key, from_attributes=True)


class ApiKeyCreated(ApiKeyRead):
    """A new API key with its secret."""

    secret: str = Field(
        description="The key to send in requests. It is shown only once and not stored."
    )


@router.post("", status_code=status.HTTP_201_CREATED, responses=error_responses(InvalidError))
def create_api_key(
    body: ApiKeyCreate, session: SessionDep, principal: RequireAdmin, actor: ActorDep
) -> ApiKeyCreated:
    """Create an API key for this tenant.

    To rotate a key, create the new one, switch the clients over, then delete the old one.
    """
    expires_at = round(body.expires_at.timestamp() * 1000) if body.expires_at else None
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise _invalid_expiry("is in the past", "Use a later time.")
    # The last hours of 9999 in a time zone behind UTC are in the year 10000.
    if expires_at is not None and expires_at > LAST_MS:
        raise _invalid_expiry("is after the year 9999", "Omit it for a key that never expires.")
    created = service.create(session, principal.tenant_id, body.name, body.scopes, expires_at)
    audit_log.record(session, actor, "api_key.create", created.row.id)
    return ApiKeyCreated(**ApiKeyRead.of(created.row).__dict__, secret=created.token)


@router.get("")
def list_api_keys(
    engine: ReadEngineDep,
    principal: RequireAdmin,
    page: Annotated[PageQuery, Depends(page_of("key"))],
) -> Page[ApiKeyRead]:
    """List the API keys that are not revoked, newest first."""
    with transaction(engine) as session:
        rows = service.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[ApiKeyRead].of(rows, page.limit, ApiKeyRead.of, by_id)


@router.delete(
    "/{key_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(ApiKeyNotFoundError),
)
def revoke_api_key(
    key_id: Annotated[str, Path(pattern=r"^key_[0-9a-f]{32}$")],
    request: Request,
    session: SessionDep,
    principal: RequireAdmin,
    actor: ActorDep,
) -> None:
    """Revoke an API key permanently. Other API processes reject it within 30 seconds."""
    service.revoke(session, principal.tenant_id, key_id)
    audit_log.record(session, actor, "api_key.revoke", key_id)
    keys: KeyRing = request.app.state.keys
    keys.forget(key_id)


def _invalid_expiry(reason: str, hint: str) -> InvalidError:
    problem = FieldProblem("/expires_at", "out_of_range", reason, hint)
    return InvalidError(f"expires_at {reason}.", problems=[problem])
