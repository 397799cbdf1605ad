"""API keys over HTTP; admin scope."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Request, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.api_keys import service
from app.api_keys.service import ApiKeyNotFoundError, NewKey
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.key_ring import KeyRing, Scope
from app.core.database import transaction
from app.core.errors import FieldProblem, InvalidError
from app.domain.spec import CleanText
from app.models import ApiKey
from app.web.dependencies import PageDep, ReadEngineDep, RequireAdmin, SessionDep
from app.web.pagination import LAST_MS, Page, Timestamp, by_id
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/api-keys", tags=["api keys"], route_class=StrictRoute)


class ApiKeyCreate(BaseModel):
    """A key to be."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "nightly", "scopes": ["jobs:read", "jobs:write"]}]
        },
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)]
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_at: AwareDatetime | None = Field(None, description="Null: never.")


class ApiKeyRead(BaseModel):
    """A key, without its secret."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    scopes: list[Scope]
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None = Field(description="To the minute.")

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """From its row."""
        return cls.model_validate(key, from_attributes=True)


class ApiKeyCreated(ApiKeyRead):
    """A key that was just made."""

    secret: str = Field(description="Shown this once; it is kept nowhere.")


@router.post("", status_code=status.HTTP_201_CREATED, responses=error_responses(InvalidError))
def create_api_key(
    body: ApiKeyCreate, session: SessionDep, principal: RequireAdmin, actor: ActorDep
) -> ApiKeyCreated:
    """Make a key for this tenant; two at once let a client change over."""
    expires_at = round(body.expires_at.timestamp() * 1000) if body.expires_at else None
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise _not_then("is in the past", "Name a later time.")
    if expires_at is not None and expires_at > LAST_MS:  # with an offset, in the last hours of 9999
        raise _not_then("is after the year 9999", "Leave it out for a key that never expires.")
    made: NewKey = service.create(
        session, principal.tenant_id, body.name, body.scopes, expires_at
    )  # fmt: skip
    audit_log.record(session, actor, "api_key.create", made.row.id)
    return ApiKeyCreated(**ApiKeyRead.of(made.row).__dict__, secret=made.token)


@router.get("")
def list_api_keys(
    engine: ReadEngineDep, principal: RequireAdmin, page: PageDep
) -> Page[ApiKeyRead]:
    """Keys that are not revoked, newest first."""
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
    """End a key for good; other processes notice within half a minute."""
    service.revoke(session, principal.tenant_id, key_id)
    audit_log.record(session, actor, "api_key.revoke", key_id)
    keys: KeyRing = request.app.state.keys
    keys.forget(key_id)


def _not_then(what: str, hint: str) -> InvalidError:
    problem = FieldProblem("/expires_at", "out_of_range", what, hint)
    return InvalidError(f"expires_at {what}.", problems=[problem])
