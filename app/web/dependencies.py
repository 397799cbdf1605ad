"""Dependencies that endpoints declare, each under one name."""

from __future__ import annotations

from collections.abc import Iterator
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

from app.auth.key_ring import Principal, Scope
from app.auth.require_scope import RequireScope
from app.core.broker import Tickets
from app.core.database import transaction
from app.core.settings import Settings
from app.web.pagination import DEFAULT_LIMIT, MAX_LIMIT

#: Unknown parameters that one response names.
MAX_UNKNOWN = 16

# ``async`` where nothing blocks: a ``def`` dependency costs a trip to the thread pool each.


async def get_settings(request: Request) -> Settings:
    """The settings the service was started with."""
    settings: Settings = request.app.state.settings
    return settings


async def get_engine(request: Request) -> Engine:
    """For endpoints that open transactions themselves."""
    engine: Engine = request.app.state.engine
    return engine


async def get_reader(request: Request) -> Engine:
    """For endpoints that only read."""
    engine: Engine = request.app.state.reader
    return engine


async def get_tickets(request: Request) -> Tickets:
    """Wakes workers; to be called after the commit."""
    tickets: Tickets = request.app.state.tickets
    return tickets


def get_session(request: Request) -> Iterator[Session]:
    """One transaction a request; with scope="function" it commits before the answer leaves."""
    with transaction(request.app.state.engine) as session:
        yield session


class RequireScopeAndKnownParameters(RequireScope):
    """Also reject query parameters that the endpoint does not have."""

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]
        principal = await super().__call__(request)
        if request.scope["query_string"]:
            _reject_unknown_parameters(request)
        return principal


def _family(name: str) -> str:
    """The declared form of a parameter: ``metadata[team]`` is one of ``metadata[…]``."""
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
    # Those that the framework does not know are objects, whose pairs come as name[key]=value.
    known |= {f"{extra['name']}[…]" for extra in (route.openapi_extra or {}).get("parameters", ())}
    names = (name for name, _ in request.query_params.multi_items())
    unknown = list(islice((name for name in names if _family(name) not in known), MAX_UNKNOWN))
    if unknown:
        there_are = f"there are: {', '.join(sorted(known))}" if known else "there are none here"
        message = f"No such parameter; {there_are}"
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": message}
                for name in unknown
            ]
        )


@dataclass(frozen=True)
class PageQuery:
    """Which part of a list is asked for."""

    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items a page.")] = DEFAULT_LIMIT
    after: Annotated[
        str | None,
        Query(pattern=r"^[a-z]{2,8}_[0-9a-f]{32}$", description="The `next` of the page before."),
    ] = None


SettingsDep = Annotated[Settings, Depends(get_settings)]
EngineDep = Annotated[Engine, Depends(get_engine)]
ReadEngineDep = Annotated[Engine, Depends(get_reader)]
TicketsDep = Annotated[Tickets, Depends(get_tickets)]
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
PageDep = Annotated[PageQuery, Depends()]

RequireJobsRead = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.JOBS_READ))]
RequireJobsWrite = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))]
RequireArtifactsRead = Annotated[
    Principal, Depends(RequireScopeAndKnownParameters(Scope.ARTIFACTS_READ))
]
RequireAdmin = Annotated[Principal, Depends(RequireScopeAndKnownParameters(Scope.ADMIN))]
