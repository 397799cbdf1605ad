"""Authenticate a request by its API key and check the key's scope and request rate."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from weakref import WeakValueDictionary

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from app.auth.key_ring import KeyRing, Principal
from app.auth.rate_limit import Rates, client_network
from app.auth.scopes import Scope
from app.core.errors import RateLimitedError, UnauthorizedError

#: Maximum number of concurrent look-ups of new keys for one client network.
LOOKUPS_PER_NETWORK = 2


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
        principal = await self._authenticate(request)
        principal.require(self._scope)
        request.scope["principal"] = principal
        return principal

    async def _authenticate(self, request: Request) -> Principal:
        """Return the owner of the key, and count the request against its rate."""
        principal = await authenticate(request, _token(request))
        rates: Rates = request.app.state.rates
        if seconds := await rates.requests.acquire(principal.key_id):
            raise RateLimitedError("Too many requests with this API key.", seconds)
        return principal


class RequireScopeAtAnyRate(RequireScope):
    """RequireScope without the request rate, for routes that queue requests instead.

    Routes for clients that cannot send a header also accept Basic authentication, in which the
    password is the key: such clients have the key in their URL.
    """

    def __init__(self, scope: Scope, *, has_basic: bool = False) -> None:
        super().__init__(scope)
        self._has_basic = has_basic

    async def _authenticate(self, request: Request) -> Principal:
        token = _token(request)
        if token is None and self._has_basic:
            token = _basic_password(request)
        return await authenticate(request, token)


async def cached_principal(request: Request, scope: Scope) -> Principal | None:
    """Return the principal of a recently verified key without a database query.

    None means that the caller must go through ``RequireScope``, which reports what is wrong.
    """
    if (token := _token(request)) is None:
        return None
    keys: KeyRing = request.app.state.keys
    rates: Rates = request.app.state.rates
    principal = keys.recall(token)
    if principal is None or not principal.may(scope):
        return None
    if await rates.requests.acquire(principal.key_id):
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


def _basic_password(request: Request) -> str | None:
    scheme, value = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(value, validate=True).decode("ascii").partition(":")[2] or None
    except ValueError:
        return None


async def authenticate(request: Request, token: str | None) -> Principal:
    """Return the owner of a request's key.

    Raises:
        UnauthorizedError: no key, or one that is not valid.
        RateLimitedError: too many wrong keys from this network.
    """
    if token is None:
        raise UnauthorizedError(
            "This request carries no API key.",
            hint="Send 'Authorization: Bearer plk_…'; `plaudit keys create` makes the first key.",
        )
    keys: KeyRing = request.app.state.keys
    if (principal := keys.recall(token)) is not None:
        return principal
    lookups: KeyLookups = request.app.state.lookups
    network = client_network(request.client.host if request.client else None)
    return await lookups.find(keys, request.app.state.rates, token, network)


class KeyLookups:
    """Database look-ups of API keys in progress; used on one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Principal]] = {}
        # Kept alive by the look-ups that use them.
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def find(self, keys: KeyRing, rates: Rates, token: str, network: str) -> Principal:
        """Return the owner of a key; requests with the same key share one look-up."""
        if (task := self._tasks.get(token)) is None:
            task = asyncio.create_task(self._find(keys, rates, token, network))
            self._tasks[token] = task
            task.add_done_callback(lambda done: (self._tasks.pop(token), done.exception()))
        return await asyncio.shield(task)  # other requests wait for it if this client leaves

    async def _find(self, keys: KeyRing, rates: Rates, token: str, network: str) -> Principal:
        if keys.knows(token):
            return await run_in_threadpool(keys.authenticate, token)
        # Always look up the key: it may be valid even if its network sends wrong ones. Wrong keys
        # occupy few threads, so they delay only requests of their own network.
        turns = self._turns.setdefault(network, asyncio.Semaphore(LOOKUPS_PER_NETWORK))
        async with turns:
            try:
                return await run_in_threadpool(keys.authenticate, token)
            except UnauthorizedError:
                if seconds := await rates.failed_logins.acquire(network):
                    raise RateLimitedError(
                        "Too many wrong API keys came from this network.", seconds
                    ) from None
                raise
