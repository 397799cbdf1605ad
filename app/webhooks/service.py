"""Creates, lists, changes and deletes the webhooks of a tenant."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.core.database import new_id, newest_first, now_ms
from app.core.errors import NotFoundError, QuotaError
from app.models import Webhook, WebhookDelivery

MAX_WEBHOOKS = 20
#: Time after a rotation in which messages are signed with both secrets.
OLD_SECRET_VALID_MS = 86_400_000


class WebhookNotFoundError(NotFoundError):
    """This tenant has no webhook with this id."""

    code = "webhook_not_found"
    title = "No such webhook"


def create(session: Session, tenant_id: str, url: str, events: Iterable[str]) -> Webhook:
    """Create a webhook for a URL that ``guard.check_url`` has accepted.

    Raises:
        QuotaError: The tenant already has ``MAX_WEBHOOKS``.
    """
    count = session.execute(
        select(func.count()).select_from(Webhook).where(Webhook.tenant_id == tenant_id)
    ).scalar_one()
    if count >= MAX_WEBHOOKS:
        raise QuotaError(
            f"This tenant already has {count} webhooks, the maximum.",
            hint="Delete a webhook that you no longer need.",
        )
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
    """Return a webhook of this tenant, or raise WebhookNotFoundError."""
    webhook = session.scalar(
        select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
    )
    if webhook is None:
        raise _not_found(webhook_id)
    return webhook


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[Webhook]:
    """Return up to ``limit + 1`` webhooks, newest first."""
    statement = select(Webhook).where(Webhook.tenant_id == tenant_id)
    return list(session.scalars(newest_first(statement, Webhook.id, limit, after)))


def list_deliveries(
    session: Session, webhook: Webhook, limit: int, after: str | None
) -> list[WebhookDelivery]:
    """Return up to ``limit + 1`` messages, newest first."""
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    return list(session.scalars(newest_first(statement, WebhookDelivery.event_id, limit, after)))


def rotate_secret(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """Replace the secret of a webhook. The previous one stays valid for one day."""
    # The lock serialises rotations: each result is valid until it is replaced, and a day longer.
    webhook = session.scalar(
        select(Webhook)
        .where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
        .with_for_update(key_share=True)
    )
    if webhook is None:
        raise _not_found(webhook_id)
    webhook.old_secret, webhook.secret = webhook.secret, _new_secret()
    webhook.old_secret_expires_at = now_ms() + OLD_SECRET_VALID_MS
    session.flush()
    session.refresh(webhook)
    return webhook


def remove(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Delete a webhook and its messages."""
    deleted_id = session.scalar(
        delete(Webhook)
        .where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
        .returning(Webhook.id)
    )
    if deleted_id is None:
        raise _not_found(webhook_id)


def _not_found(webhook_id: str) -> WebhookNotFoundError:
    return WebhookNotFoundError(f"There is no webhook {webhook_id}.")


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
