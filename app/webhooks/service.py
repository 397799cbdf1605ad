"""Webhooks of a tenant: made, listed, given a new secret, deleted."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.core.database import new_id, now_ms
from app.core.errors import NotFoundError, QuotaError
from app.models import Webhook, WebhookDelivery

MAX_WEBHOOKS = 20
#: After a rotation messages are signed with both secrets for so long.
OLD_SECRET_KEPT_MS = 86_400_000


class WebhookNotFoundError(NotFoundError):
    """No webhook of this tenant has this id."""

    code = "webhook_not_found"
    title = "No such webhook"


def create(session: Session, tenant_id: str, url: str, events: Iterable[str]) -> Webhook:
    """Keep an address that ``guard.check_url`` accepted.

    Raises:
        QuotaError: the tenant has as many as it may.
    """
    count = session.execute(
        select(func.count()).select_from(Webhook).where(Webhook.tenant_id == tenant_id)
    ).scalar_one()
    if count >= MAX_WEBHOOKS:
        raise QuotaError(f"{count} webhooks are there already.", hint="Delete one.")
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=tenant_id,
        url=url,
        events=sorted(events),
        secret=_new_secret(),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def get(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """A webhook of this tenant, or WebhookNotFoundError."""
    webhook = session.scalar(
        select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
    )
    if webhook is None:
        raise WebhookNotFoundError(f"There is no webhook {webhook_id}.")
    return webhook


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[Webhook]:
    """Up to ``limit + 1`` webhooks, newest first."""
    statement = select(Webhook).where(Webhook.tenant_id == tenant_id)
    if after is not None:
        statement = statement.where(Webhook.id < after)
    return list(session.scalars(statement.order_by(Webhook.id.desc()).limit(limit + 1)))


def list_deliveries(
    session: Session, webhook: Webhook, limit: int, after: str | None
) -> list[WebhookDelivery]:
    """Up to ``limit + 1`` messages, newest first."""
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    if after is not None:
        statement = statement.where(WebhookDelivery.event_id < after)
    newest_first = statement.order_by(WebhookDelivery.event_id.desc())
    return list(session.scalars(newest_first.limit(limit + 1)))


def rotate_secret(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """Give a webhook a new secret; the one before stays valid for a day."""
    webhook = get(session, tenant_id, webhook_id)
    webhook.old_secret, webhook.secret = webhook.secret, _new_secret()
    webhook.old_secret_expires_at = now_ms() + OLD_SECRET_KEPT_MS
    session.flush()
    session.refresh(webhook)
    return webhook


def remove(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Delete a webhook and its messages."""
    gone = session.scalar(
        delete(Webhook)
        .where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
        .returning(Webhook.id)
    )
    if gone is None:
        raise WebhookNotFoundError(f"There is no webhook {webhook_id}.")


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
