"""Create, list and revoke the API keys of a tenant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app.api_keys.defaults import DEFAULT_TENANT, FIRST_KEY_FILE
from app.audit import log as audit_log
from app.audit.log import Actor
from app.auth.key_ring import mint
from app.auth.scopes import Scope
from app.core import private_files
from app.core.database import newest_first, now_ms, transaction
from app.core.errors import NotFoundError
from app.models import ApiKey


class ApiKeyNotFoundError(NotFoundError):
    """No valid API key of this tenant has this id."""

    code = "api_key_not_found"
    title = "No such API key"


class NewKey(NamedTuple):
    """A new API key. ``token`` is what clients send; it cannot be recovered later."""

    row: ApiKey
    token: str


def create(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: Iterable[Scope],
    expires_at: int | None = None,
) -> NewKey:
    """Create an API key. ``expires_at`` is in epoch milliseconds; None means never."""
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
    """Return up to ``limit + 1`` keys that are not revoked, newest first."""
    statement = select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None))
    return list(session.scalars(newest_first(statement, ApiKey.id, limit, after)))


def revoke(session: Session, tenant_id: str, key_id: str) -> None:
    """Revoke an API key permanently.

    Raises:
        ApiKeyNotFoundError: No valid key of the tenant has this id.
    """
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now_ms())
        .returning(ApiKey.id)
    )
    if revoked is None:
        raise ApiKeyNotFoundError(f"There is no valid API key {key_id}.")


def first_key(engine: Engine, data_dir: Path) -> str:
    """Return the admin token of an embedded service; create it at the first start.

    The token is stored in a file that only its owner can read. A file whose key is not in the
    database, because the database was replaced, is replaced too.
    """
    path = data_dir / FIRST_KEY_FILE
    with transaction(engine) as session:
        if path.exists():
            token = path.read_text().strip()
            if _is_valid(session, token):
                return token
        created = create(session, DEFAULT_TENANT, "first key", [Scope.ADMIN])
        audit_log.record(session, Actor(DEFAULT_TENANT), "api_key.create", created.row.id)
        token = created.token
        data_dir.mkdir(0o700, parents=True, exist_ok=True)
        private_files.replace(path, token + "\n")
    return token


def _is_valid(session: Session, token: str) -> bool:
    _, _, rest = token.partition("plk_")
    key_id = f"key_{rest[:32]}"
    return session.scalar(
        select(ApiKey.id).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    ) is not None  # fmt: skip
