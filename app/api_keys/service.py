"""API keys of a tenant: made, listed, revoked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app.audit import log as audit_log
from app.audit.log import Actor
from app.auth.key_ring import Scope, mint
from app.core.database import now_ms, transaction
from app.core.errors import NotFoundError
from app.models import ApiKey

#: The tenant of a service that one person runs for herself.
DEFAULT_TENANT = "default"
FIRST_KEY_FILE = "api-key"


class ApiKeyNotFoundError(NotFoundError):
    """No live key of this tenant has this id."""

    code = "api_key_not_found"
    title = "No such API key"


class NewKey(NamedTuple):
    """A key that was just made; ``token`` is shown this once."""

    row: ApiKey
    token: str


def create(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: Iterable[Scope],
    expires_at: int | None = None,
) -> NewKey:
    """Make a key; ``expires_at`` in epoch milliseconds."""
    minted = mint()
    key = ApiKey(
        id=minted.id,
        tenant_id=tenant_id,
        name=name,
        secret_sha256=minted.secret_sha256,
        scopes=sorted({scope.value for scope in scopes}),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return NewKey(key, minted.token)


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[ApiKey]:
    """Up to ``limit + 1`` keys that are not revoked, newest first."""
    statement = select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None))
    if after is not None:
        statement = statement.where(ApiKey.id < after)
    return list(session.scalars(statement.order_by(ApiKey.id.desc()).limit(limit + 1)))


def revoke(session: Session, tenant_id: str, key_id: str) -> None:
    """End a key for good."""
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now_ms())
        .returning(ApiKey.id)
    )
    if revoked is None:
        raise ApiKeyNotFoundError(f"There is no live key {key_id}.")


def first_key(engine: Engine, data_dir: Path) -> str:
    """The token of an embedded service: made at first start, kept in a file only its owner reads.

    A key file without its row (the database was replaced) is replaced as well.
    """
    path = data_dir / FIRST_KEY_FILE
    with transaction(engine) as session:
        if path.exists():
            token = path.read_text().strip()
            if _is_live(session, token):
                return token
        made = create(session, DEFAULT_TENANT, "first key", [Scope.ADMIN])
        audit_log.record(session, Actor(DEFAULT_TENANT), "api_key.create", made.row.id)
        token = made.token
        data_dir.mkdir(0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    return token


def _is_live(session: Session, token: str) -> bool:
    _, _, rest = token.partition("plk_")
    key_id = f"key_{rest[:32]}"
    return session.scalar(
        select(ApiKey.id).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    ) is not None  # fmt: skip
