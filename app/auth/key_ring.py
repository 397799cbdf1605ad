"""API keys: ``plk_<key id>_<secret>_<checksum>``. The database holds sha256 of the secret.

The secret has 256 random bits, so a plain hash is enough: there is nothing to guess. The checksum
lets secret scanners, and us, tell a mistyped key from a wrong one without a look-up.
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
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Engine, or_, select, update

from app.core.database import new_id, now_ms, reader
from app.core.errors import ForbiddenError, UnauthorizedError
from app.models import ApiKey

#: A revoked key is refused by other processes after this long at the latest.
REMEMBERED_SECONDS = 30.0
LAST_USED_EVERY_MS = 60_000
_MAX_REMEMBERED = 10_000
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"plk_([0-9a-f]{32})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")


class Scope(StrEnum):
    """What a key may do in its tenant; ``admin`` may do everything."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Who is asking."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key covers ``scope``."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise ForbiddenError unless the key covers ``scope``."""
        if not self.may(scope):
            raise ForbiddenError(
                f"This key lacks the scope {scope.value}.",
                hint="Use a key that has it; an admin makes one with POST /v1/api-keys.",
            )


class MintedKey(NamedTuple):
    """A fresh key; ``token`` is shown once and kept nowhere."""

    id: str
    token: str
    secret_sha256: str


def mint() -> MintedKey:
    """A new key id and secret."""
    key_id = new_id("key")
    secret = _base62(secrets.randbits(256), 43)
    body = f"plk_{key_id.removeprefix('key_')}_{secret}"
    return MintedKey(key_id, f"{body}_{_checksum(body)}", _hash(secret))


class KeyRing:
    """Verifies tokens; takes good ones at their word for a short while, bad ones never."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        # By hash, so that a core dump of this process shows no key in use.
        self._remembered: dict[str, tuple[Principal, float]] = {}

    def recall(self, token: str) -> Principal | None:
        """Who this token was a moment ago; costs no database."""
        found = self._remembered.get(_hash(token))
        return found[0] if found and found[1] > time.monotonic() else None

    def knows(self, token: str) -> bool:
        """Whether this token was good when it was last looked up: it is no guess."""
        return _hash(token) in self._remembered

    def authenticate(self, token: str) -> Principal:
        """Who this token is now.

        Raises:
            UnauthorizedError: malformed, unknown, wrong, expired or revoked; never says which.
        """
        match = _TOKEN.fullmatch(token)
        if match is None or not hmac.compare_digest(_checksum(token[:-7]), match[3]):
            raise _refusal()
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
        # Compared even without a row: the time taken says nothing about which ids exist.
        is_right = hmac.compare_digest(_hash(match[2]), row.secret_sha256 if row else "0" * 64)
        if row is None or not is_right or (row.expires_at and row.expires_at <= row.now):
            with self._lock:
                self._remembered.pop(_hash(token), None)
            raise _refusal()
        principal = Principal(row.id, row.tenant_id, frozenset(row.scopes))
        left = (row.expires_at - row.now) / 1000 if row.expires_at else REMEMBERED_SECONDS
        self._remember(token, principal, min(left, REMEMBERED_SECONDS))
        if row.last_used_at is None or row.last_used_at < row.now - LAST_USED_EVERY_MS:
            self._note_use(row.id)
        return principal

    def forget(self, key_id: str) -> None:
        """Ask the database again about this key, at once."""
        with self._lock:
            self._remembered = {
                token: found
                for token, found in self._remembered.items()
                if found[0].key_id != key_id
            }

    def _remember(self, token: str, principal: Principal, seconds: float) -> None:
        with self._lock:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[_hash(token)] = principal, time.monotonic() + seconds

    def _note_use(self, key_id: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(ApiKey)
                .where(
                    ApiKey.id == key_id,
                    or_(
                        ApiKey.last_used_at.is_(None),
                        ApiKey.last_used_at < now_ms() - LAST_USED_EVERY_MS,
                    ),
                )
                .values(last_used_at=now_ms())
            )


def _refusal() -> UnauthorizedError:
    return UnauthorizedError(
        "The API key is not valid: unknown, revoked, expired or mistyped.",
        hint="Send 'Authorization: Bearer plk_…' with a live key.",
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
