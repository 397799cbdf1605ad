"""What endpoints ask for, under one name each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query as QueryInfo
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.broker import Tickets
from app.database import transaction
from app.errors import RateLimitedError, UnauthorizedError
from app.rates import Rates, neighbourhood
from app.security import KeyRing, Principal, Scope
from app.settings import Settings
from app.shapes import DEFAULT_LIMIT, MAX_LIMIT

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


class Needs(HTTPBearer):
    """Lets only requests pass whose API key has ``scope``, and does not come too often.

    One dependency without others below it: the framework takes about as long for each as for an
    empty request as a whole, and every endpoint has this one.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__(
            scheme_name="ApiKey", description="An API key: `Authorization: Bearer plk_…`"
        )
        self._scope = scope

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]
        principal = await _authenticate(request)
        principal.require(self._scope)
        request.scope["principal"] = principal
        if request.scope["query_string"]:
            _refuse_unknown(request)
        return principal


def _refuse_unknown(request: Request) -> None:
    """Ignored, a filter that is spelt wrong would show everything."""
    route: APIRoute = request.scope["route"]
    known = {
        field.alias
        for field in get_flat_params(route.dependant)
        if isinstance(field.field_info, QueryInfo)
    }
    # Those that the framework does not know are objects, whose pairs come as name[key]=value.
    known |= {f"{extra['name']}[…]" for extra in (route.openapi_extra or {}).get("parameters", ())}
    unknown = [
        name for name in request.query_params if re.sub(r"\[.*\]$", "[…]", name) not in known
    ]
    if unknown:
        there_are = f"there are: {', '.join(sorted(known))}" if known else "there are none here"
        message = f"No such parameter; {there_are}"
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": message}
                for name in unknown
            ]
        )


def recognised(request: Request, scope: Scope) -> Principal | None:
    """Whose key it is, without a look into the database; None: let ``Needs`` say what is wrong."""
    if (token := _token(request)) is None:
        return None
    keys: KeyRing = request.app.state.keys
    rates: Rates = request.app.state.rates
    principal = keys.recall(token)
    if principal is None or not principal.may(scope) or rates.requests.take(principal.key_id):
        return None
    return principal


def is_still_welcome(request: Request) -> bool:
    """Whether the key that a long answer began with is good now; may look into the database."""
    keys: KeyRing = request.app.state.keys
    token = _token(request) or ""
    try:
        return bool(keys.recall(token) or keys.authenticate(token))
    except UnauthorizedError:
        return False


def _token(request: Request) -> str | None:
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    return token if scheme.lower() == "bearer" and token else None


async def _authenticate(request: Request) -> Principal:
    """Whose key came with the request, unless it asks too often."""
    if (token := _token(request)) is None:
        raise UnauthorizedError(
            "This request carries no API key.",
            hint="Send 'Authorization: Bearer plk_…'; `plaudit keys create` makes the first key.",
        )
    rates: Rates = request.app.state.rates
    keys: KeyRing = request.app.state.keys
    principal = keys.recall(token) or await _look_up(request, keys, rates, token)
    if seconds := rates.requests.take(principal.key_id):
        raise RateLimitedError("This key asks too often.", seconds)
    return principal


async def _look_up(request: Request, keys: KeyRing, rates: Rates, token: str) -> Principal:
    """One look into the database for all requests that bring the same key at the same time."""
    under_way: dict[str, asyncio.Task[Principal]] = request.app.state.lookups
    if (task := under_way.get(token)) is None:
        address = neighbourhood(request.client.host if request.client else None)
        task = under_way[token] = asyncio.create_task(_ask(keys, rates, token, address))
        task.add_done_callback(lambda done: (under_way.pop(token), done.exception()))
    return await asyncio.shield(task)  # for the others, should this client hang up


async def _ask(keys: KeyRing, rates: Rates, token: str, address: str) -> Principal:
    if keys.knows(token):
        return await run_in_threadpool(keys.authenticate, token)
    # Taken before the look-up: any number of guesses at once pay as well.
    if seconds := rates.failed_logins.take(address):
        raise RateLimitedError("Too many wrong API keys came from this address.", seconds)
    is_wrong = False
    try:
        return await run_in_threadpool(keys.authenticate, token)
    except UnauthorizedError:
        is_wrong = True
        raise
    finally:
        if not is_wrong:
            rates.failed_logins.give_back(address)


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
ReaderDep = Annotated[Engine, Depends(get_reader)]
TicketsDep = Annotated[Tickets, Depends(get_tickets)]
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
PageDep = Annotated[PageQuery, Depends()]

JobsReaderDep = Annotated[Principal, Depends(Needs(Scope.JOBS_READ))]
JobsWriterDep = Annotated[Principal, Depends(Needs(Scope.JOBS_WRITE))]
ArtifactsReaderDep = Annotated[Principal, Depends(Needs(Scope.ARTIFACTS_READ))]
AdminDep = Annotated[Principal, Depends(Needs(Scope.ADMIN))]
