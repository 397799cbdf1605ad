"""Authenticate a request by its API key and check the key's scope and request rate."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from app.auth.key_ring import KeyRing, Principal, Scope
from app.auth.rate_limit import Rates, client_network
from app.core.errors import RateLimitedError, UnauthorizedError


class RequireScope(HTTPBearer):
    """Dependency that requires an API key with ``scope`` that is within its request rate.

    It has no sub-dependencies on purpose: FastAPI spends about as long on each dependency as on an
    empty request, and every endpoint uses this one.
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
        return principal


def cached_principal(request: Request, scope: Scope) -> Principal | None:
    """Return the principal of a recently verified key without a database query.

    None means that the caller must go through ``RequireScope``, which reports what is wrong.
    """
    if (token := _token(request)) is None:
        return None
    keys: KeyRing = request.app.state.keys
    rates: Rates = request.app.state.rates
    principal = keys.recall(token)
    if principal is None or not principal.may(scope) or rates.requests.take(principal.key_id):
        return None
    return principal


def is_still_authorized(request: Request) -> bool:
    """Return whether the key of a long-lived response is still valid; may query the database."""
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
        address = client_network(request.client.host if request.client else None)
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
