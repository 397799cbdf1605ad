"""FastAPI dependencies of the endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query as QueryInfo
from fastapi.routing import APIRoute
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.auth.key_ring import Principal
from app.auth.require_scope import RequireScope, RequireScopeAtAnyRate
from app.auth.scopes import Scope
from app.core.broker import Tickets
from app.core.database import transaction
from app.core.settings import Settings
from app.web.pagination import DEFAULT_LIMIT, MAX_LIMIT

#: Largest number of unknown parameters that an error names.
MAX_UNKNOWN = 16

# Dependencies that do not block are ``async``: FastAPI runs a ``def`` one in the thread pool.


async def get_settings(request: Request) -> Settings:
    """Return the settings of the service."""
    settings: Settings = request.app.state.settings
    return settings


async def get_engine(request: Request) -> Engine:
    """Return the engine, for endpoints that open transactions themselves."""
    engine: Engine = request.app.state.engine
    return engine


async def get_read_engine(request: Request) -> Engine:
    """Return the engine without transactions, for endpoints that only read."""
    engine: Engine = request.app.state.reader
    return engine


async def get_tickets(request: Request) -> Tickets:
    """Return the tickets that wake workers. Issue one after the commit only."""
    tickets: Tickets = request.app.state.tickets
    return tickets


def get_session(request: Request) -> Iterator[Session]:
    """Open one transaction per request.

    With ``scope="function"`` it is committed before the response is sent.
    """
    with transaction(request.app.state.engine) as session:
        yield session


class RequireScopeAndKnownParameters(RequireScope):
    """RequireScope that also rejects query parameters that the endpoint does not have."""

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]
        principal = await super().__call__(request)
        if request.scope["query_string"]:
            _reject_unknown_parameters(request)
        return principal


class _RequireScores(RequireScopeAndKnownParameters, RequireScopeAtAnyRate):
    """Scoring queues requests instead of limiting their rate."""


def _declared_name(name: str) -> str:
    """Return the declared name of a parameter, such as ``metadata[…]`` for ``metadata[team]``."""
    prefix, bracket, _ = name.partition("[")
    return f"{prefix}[…]" if bracket and name.endswith("]") else name


def _reject_unknown_parameters(request: Request) -> None:
    """Reject unknown parameters: a misspelled filter must not return every row."""
    route: APIRoute = request.scope["route"]
    known = {
        field.alias
        for field in get_flat_params(route.dependant)
        if isinstance(field.field_info, QueryInfo)
    }
    # Parameters of the form name[key]=value are unknown to the framework and declared by hand.
    known |= {f"{extra['name']}[…]" for extra in (route.openapi_extra or {}).get("parameters", ())}
    names = (name for name, _ in request.query_params.multi_items())
    unknown = list(
        islice((name for name in names if _declared_name(name) not in known), MAX_UNKNOWN)
    )
    if unknown:
        accepted = (
            f"known parameters: {', '.join(sorted(known))}" if known else "this route has none"
        )
        message = f"Unknown parameter; {accepted}"
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": message}
                for name in unknown
            ]
        )


@dataclass(frozen=True)
class PageQuery:
    """Query parameters of a list: which page to return."""

    limit: int
    after: str | None


def page_of(prefix: str) -> Callable[..., Awaitable[PageQuery]]:
    """Return the dependency of a list of objects whose ids have this prefix.

    The cursor of another list is refused: compared with these ids, it would give the first page
    again, or an empty one.
    """

    async def get_page(
        limit: int = Query(
            DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of items per page."
        ),
        after: str | None = Query(
            None,
            pattern=rf"^{prefix}_[0-9a-f]{{32}}$",
            description="Cursor: the `next` value of the previous page.",
        ),
    ) -> PageQuery:
        return PageQuery(limit, after)

    return get_page


SettingsDep = Annotated[Settings, Depends(get_settings)]
EngineDep = Annotated[Engine, Depends(get_engine)]
ReadEngineDep = Annotated[Engine, Depends(get_read_engine)]
TicketsDep = Annotated[Tickets, Depends(get_tickets)]
SessionDep = Annotated[Session, Depends(get_session, scope="function")]

RequireJobsRead = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.JOBS_READ))]
RequireJobsWrite = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))]
RequireArtifactsRead = Annotated[
    Principal, Depends(RequireScopeAndKnownParameters(Scope.ARTIFACTS_READ))
]
RequireScoresWrite = Annotated[Principal, Depends(_RequireScores(Scope.SCORES_WRITE))]
RequireAdmin = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.ADMIN))]
