"""The outbox of webhooks: messages are rows, written in the transaction of the change they report.

Any process may claim and send them. Delivery is at least once: if the process of an attempt dies,
the attempt is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from sqlalchemy import Text, cast, delete, func, insert, literal, select, tuple_, update
from sqlalchemy.orm import Session

from app.core.database import new_id, now_ms
from app.core.leased_queue import lock_picked, update_returning
from app.models import Webhook, WebhookDelivery
from app.webhooks.schemas import EventType

#: Messages of one webhook that are sent at once: a slow address must not delay the others.
MAX_CONCURRENT = 2
#: Milliseconds for which delivered and failed messages are kept.
RETENTION_MS = 30 * 86_400_000
_EVENT_TYPES = frozenset(get_args(EventType))
_KEY = tuple_(WebhookDelivery.webhook_id, WebhookDelivery.event_id)


def enqueue(session: Session, tenant_id: str, event_type: str, data: Mapping[str, Any]) -> None:
    """Queue a message for each enabled webhook of the tenant that wants events of this type."""
    if event_type in _EVENT_TYPES:
        # Both databases store the list as JSON text. The quotes prevent matches in longer names.
        wants = cast(Webhook.events, Text).contains(f'"{event_type}"', autoescape=True)
        wanted = (Webhook.tenant_id == tenant_id, Webhook.disabled_at.is_(None), wants)
        _enqueue(session, event_type, data, *wanted)


def enqueue_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Queue a ``webhook.test`` message, even for a disabled webhook."""
    event_id = _enqueue(session, "webhook.test", {"id": webhook.id}, Webhook.id == webhook.id)
    return session.get_one(WebhookDelivery, (webhook.id, event_id))


def is_due(session: Session) -> bool:
    """Return whether a claim would find a message; takes no lock."""
    return session.scalar(select(WebhookDelivery.event_id).where(*_due()).limit(1)) is not None


def claim(session: Session, count: int, lease_ms: int) -> list[WebhookDelivery]:
    """Claim up to ``count`` due messages for ``lease_ms``; no other caller gets them."""
    ranked = (
        select(
            WebhookDelivery.webhook_id,
            WebhookDelivery.event_id,
            WebhookDelivery.next_attempt_at,
            func.row_number()
            .over(
                partition_by=WebhookDelivery.webhook_id,
                order_by=(WebhookDelivery.next_attempt_at, WebhookDelivery.event_id),
            )
            .label("rank"),
        )
        .where(*_due())
        .subquery()
    )
    first = (
        select(ranked.c.webhook_id, ranked.c.event_id)
        .where(ranked.c.rank <= MAX_CONCURRENT)
        .order_by(ranked.c.next_attempt_at)
        .limit(count)
    )
    # The rows are locked as they are picked: two claims of the same rows could deadlock.
    picked = lock_picked(
        select(WebhookDelivery.webhook_id, WebhookDelivery.event_id).where(_KEY.in_(first), *_due())
    )
    return update_returning(
        session,
        WebhookDelivery,
        (_KEY.in_(picked), *_due()),
        attempts=WebhookDelivery.attempts + 1,
        next_attempt_at=now_ms() + lease_ms,
        last_attempt_at=now_ms(),
    )


def lock_webhook(session: Session, webhook_id: str) -> Webhook | None:
    """Lock a webhook until the end of the transaction; None if it was deleted.

    It must be locked before its messages, in the same order as by a delete.
    """
    return session.scalar(
        select(Webhook)
        .where(Webhook.id == webhook_id)
        .with_for_update(key_share=True)  # does not block ``enqueue``
        .execution_options(populate_existing=True)
    )


def finish(session: Session, delivery: WebhookDelivery, **values: Any) -> bool:
    """Write the result of an attempt unless a later one has begun; return whether it was."""
    written = session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == delivery.webhook_id,
            WebhookDelivery.event_id == delivery.event_id,
            WebhookDelivery.attempts == delivery.attempts,
            WebhookDelivery.status == "pending",
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(written.rowcount)  # type: ignore[attr-defined]


def disable(session: Session, webhook: Webhook, reason: str) -> None:
    """Disable a webhook and fail its pending messages."""
    webhook.disabled_at = now_ms()
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.status == "pending")
        .values(status="failed", error=reason)
        .execution_options(synchronize_session=False)
    )


def delete_old(session: Session) -> None:
    """Delete messages that were delivered or failed longer than ``RETENTION_MS`` ago."""
    session.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.status != "pending",
            WebhookDelivery.created_at < now_ms() - RETENTION_MS,
        )
    )


def _enqueue(session: Session, event_type: str, data: Mapping[str, Any], *wanted: Any) -> str:
    event_id = new_id("evt")
    session.execute(
        insert(WebhookDelivery).from_select(
            ["webhook_id", "event_id", "type", "data"],
            select(
                Webhook.id,
                literal(event_id),
                literal(event_type),
                literal(dict(data), WebhookDelivery.data.type),
            )
            .where(*wanted)
            # Wait for webhooks that are being deleted, and leave them out: a message to one would
            # violate the foreign key and abort the transaction of the job.
            .with_for_update(read=True, key_share=True),
        )
    )
    return event_id


def _due() -> tuple[Any, ...]:
    return (WebhookDelivery.status == "pending", WebhookDelivery.next_attempt_at <= now_ms())
