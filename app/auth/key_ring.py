"""API keys of the form ``plk_<key id>_<secret>_<checksum>``. Only a hash of the secret is stored.

The secret has 256 random bits, which cannot be guessed, so a plain SHA-256 is enough. The checksum
lets secret scanners and the service detect a mistyped key without a database query.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine, or_, select, update

from app.auth.scopes import Scope
from app.core.database import new_id, now_ms, reader
from app.core.errors import ForbiddenError, UnauthorizedError
from app.models import ApiKey

#: Seconds for which a verified key is cached. Other processes may accept a revoked key for this
#: long.
CACHE_SECONDS = 30.0
#: The precision of ``ApiKey.last_used_at``.
LAST_USED_PRECISION_MS = 60_000
_MAX_CACHED_KEYS = 10_000
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"plk_([0-9a-f]{32})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")


@dataclass(frozen=True)
class Principal:
    """The authenticated API key of a request."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Return whether the key has ``scope``."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise ForbiddenError unless the key has ``scope``."""
        if not self.may(scope):
            raise ForbiddenError(
                f"This API key lacks the scope {scope.value}.",
                hint="Use a key with this scope; an admin can create one with POST /v1/api-keys.",
            )


class MintedKey(NamedTuple):
    """A new key. ``token`` is shown once and not stored."""

    id: str
    token: str
    secret_sha256: str


def mint() -> MintedKey:
    """Generate a key id and a secret."""
    key_id = new_id("key")
    secret = _base62(secrets.randbits(256), 43)
    body = f"plk_{key_id.removeprefix('key_')}_{secret}"
    return MintedKey(key_id, f"{body}_{_checksum(body)}", _hash(secret))


class KeyRing:
    """Verifies tokens. Caches the valid ones for ``CACHE_SECONDS`` and no invalid ones."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        # Principal and expiry by hash of the token, so that a core dump contains no valid key.
        self._cache: dict[str, tuple[Principal, float]] = {}

    def recall(self, token: str) -> Principal | None:
        """Return the principal of a cached token, or None. Does not query the database."""
        found = self._cache.get(_hash(token))
        return found[0] if found and found[1] > time.monotonic() else None

    def knows(self, token: str) -> bool:
        """Return whether the token was valid at its last verification, however long ago."""
        return _hash(token) in self._cache

    def authenticate(self, token: str) -> Principal:
        """Verify a token against the database.

        Raises:
            UnauthorizedError: The token is malformed, unknown, wrong, expired or revoked. The
                error does not tell which.
        """
        match = _TOKEN.fullmatch(token)
        if match is None or not hmac.compare_digest(_checksum(token[:-7]), match[3]):
            raise _invalid_key()
        with reader(self._engine).connect() as connection:
            row = connection.execute(
                select(
                    ApiKey.id,
                    ApiKey.tenant_id,
                    ApiKey.scopes,
                    ApiKey.secret_sha256,
                    ApiKey.expires_at,
                    ApiKey.last_used_at,
                    now_ms().label("now"),
                ).where(ApiKey.id == f"key_{match[1]}", ApiKey.revoked_at.is_(None))
            ).one_or_none()
        # Compare even if the id is unknown: the response time must not reveal which ids exist.
        is_right = hmac.compare_digest(_hash(match[2]), row.secret_sha256 if row else "0" * 64)
        if row is None or not is_right or (row.expires_at and row.expires_at <= row.now):
            with self._lock:
                self._cache.pop(_hash(token), None)
            raise _invalid_key()
        principal = Principal(row.id, row.tenant_id, frozenset(row.scopes))
        seconds_left = (row.expires_at - row.now) / 1000 if row.expires_at else CACHE_SECONDS
        self._remember(token, principal, min(seconds_left, CACHE_SECONDS))
        if row.last_used_at is None or row.last_used_at < row.now - LAST_USED_PRECISION_MS:
            self._record_use(row.id)
        return principal

    def forget(self, key_id: str) -> None:
        """Remove a key from the cache of this process."""
        with self._lock:
            self._cache = {
                token: found for token, found in self._cache.items() if found[0].key_id != key_id
            }

    def _remember(self, token: str, principal: Principal, seconds: float) -> None:
        with self._lock:
            if len(self._cache) >= _MAX_CACHED_KEYS:
                self._cache.clear()
            self._cache[_hash(token)] = principal, time.monotonic() + seconds

    def _record_use(self, key_id: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(ApiKey)
                .where(
                    ApiKey.id == key_id,
                    or_(
                        ApiKey.last_used_at.is_(None),
                        ApiKey.last_used_at < now_ms() - LAST_USED_PRECISION_MS,
                    ),
                )
                .values(last_used_at=now_ms())
            )


def _invalid_key() -> UnauthorizedError:
    return UnauthorizedError(
        "The API key is not valid: unknown, revoked, expired or mistyped.",
        hint="Send 'Authorization: Bearer plk_…' with a valid key.",
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
