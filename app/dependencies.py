"""What endpoints ask for, under one name each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.broker import Tickets
from app.database import reader, transaction
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
    return reader(request.app.state.engine)


async def get_tickets(request: Request) -> Tickets:
    """Wakes workers; to be called after the commit."""
    tickets: Tickets = request.app.state.tickets
    return tickets


async def get_keys(request: Request) -> KeyRing:
    """Verifies API keys."""
    keys: KeyRing = request.app.state.keys
    return keys


def get_session(request: Request) -> Iterator[Session]:
    """One transaction a request; with scope="function" it commits before the answer leaves."""
    with transaction(request.app.state.engine) as session:
        yield session


_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key: `Authorization: Bearer plk_…`",
)


async def get_principal(
    request: Request,
    keys: Annotated[KeyRing, Depends(get_keys)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Whose key came with the request, unless it asks too often."""
    if credentials is None:
        raise UnauthorizedError(
            "This request carries no API key.",
            hint="Send 'Authorization: Bearer plk_…'; `plaudit keys create` makes the first key.",
        )
    rates: Rates = request.app.state.rates
    token = credentials.credentials
    if (principal := keys.recall(token)) is None:
        address = neighbourhood(request.client.host if request.client else None)
        # Taken before the look-up: any number of guesses at once pay as well.
        if seconds := rates.failed_logins.take(address):
            raise RateLimitedError("Too many wrong API keys came from this address.", seconds)
        is_wrong = False
        try:
            principal = await run_in_threadpool(keys.authenticate, token)
        except UnauthorizedError:
            is_wrong = True
            raise
        finally:
            if not is_wrong:
                rates.failed_logins.give_back(address)
    if seconds := rates.requests.take(principal.key_id):
        raise RateLimitedError("This key asks too often.", seconds)
    return principal


def needs(scope: Scope) -> Callable[[Principal], Awaitable[Principal]]:
    """A dependency that lets only keys with ``scope`` pass."""

    async def check(principal: Annotated[Principal, Depends(get_principal)]) -> Principal:
        principal.require(scope)
        return principal

    return check


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
KeysDep = Annotated[KeyRing, Depends(get_keys)]
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
PageDep = Annotated[PageQuery, Depends()]

JobsReaderDep = Annotated[Principal, Depends(needs(Scope.JOBS_READ))]
JobsWriterDep = Annotated[Principal, Depends(needs(Scope.JOBS_WRITE))]
ArtifactsReaderDep = Annotated[Principal, Depends(needs(Scope.ARTIFACTS_READ))]
AdminDep = Annotated[Principal, Depends(needs(Scope.ADMIN))]
