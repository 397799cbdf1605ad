"""The outbox of webhooks: messages are rows, written in the transaction of the change they report.

Any process may claim and send them. Delivery is at least once: if the process of an attempt dies,
the attempt is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    Text,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from app.core.backoff import full_jitter
from app.core.database import new_id, now_ms
from app.core.leased_queue import lock_picked, update_returning
from app.models import Webhook, WebhookDelivery
from app.webhooks.schemas import EventType

MAX_ATTEMPTS = 8
#: Delays between attempts, with full jitter: up to 30 s, 2 min, 8 min, 32 min, 2 h, 6 h, 6 h.
BACKOFF_MS, BACKOFF_FACTOR, BACKOFF_MAX_MS = 30_000, 4, 6 * 3_600_000
#: Milliseconds after which another process may claim a message; longer than any attempt takes.
LEASE_MS = 60_000
#: Webhooks with due messages that one search returns.
MAX_DUE = 1000
#: Milliseconds for which delivered and failed messages are kept.
RETENTION_MS = 30 * 86_400_000
_EVENT_TYPES = frozenset(get_args(EventType))
_KEY = tuple_(WebhookDelivery.webhook_id, WebhookDelivery.event_id)


def enqueue(session: Session, tenant_id: str, event_type: str, data: Mapping[str, Any]) -> None:
    """Queue a message for each enabled webhook of the tenant that is subscribed to this type."""
    if event_type in _EVENT_TYPES:
        # Both databases store the list as JSON text. The quotes prevent matches in longer names.
        subscribed = cast(Webhook.events, Text).contains(f'"{event_type}"', autoescape=True)
        conditions = (Webhook.tenant_id == tenant_id, Webhook.disabled_at.is_(None), subscribed)
        _enqueue(session, event_type, data, *conditions)


def enqueue_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Queue a ``webhook.test`` message, even for a disabled webhook."""
    event_id = _enqueue(session, "webhook.test", {"id": webhook.id}, Webhook.id == webhook.id)
    return session.get_one(WebhookDelivery, (webhook.id, event_id))


class DueWebhook(NamedTuple):
    """A webhook with a message that is due."""

    id: str
    tenant_id: str
    url: str


def due_webhooks(session: Session) -> list[DueWebhook]:
    """Return the webhooks with due messages, sorted by due time. Takes no lock."""
    first = func.min(WebhookDelivery.next_attempt_at)
    query = (
        select(Webhook.id, Webhook.tenant_id, Webhook.url)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == Webhook.id)
        .where(*_due())
        .group_by(Webhook.id, Webhook.tenant_id, Webhook.url)
        .order_by(first, Webhook.id)
        .limit(MAX_DUE)
    )
    return [DueWebhook(*row) for row in session.execute(query)]


def claim(session: Session, webhook_ids: Sequence[str]) -> list[WebhookDelivery]:
    """Claim the oldest due message of each webhook for ``LEASE_MS``.

    No other caller can claim them during that time.
    """
    ranked = (
        select(
            WebhookDelivery.webhook_id,
            WebhookDelivery.event_id,
            func.row_number()
            .over(
                partition_by=WebhookDelivery.webhook_id,
                order_by=(WebhookDelivery.next_attempt_at, WebhookDelivery.event_id),
            )
            .label("rank"),
        )
        .where(WebhookDelivery.webhook_id.in_(webhook_ids), *_due())
        .subquery()
    )
    first = select(ranked.c.webhook_id, ranked.c.event_id).where(ranked.c.rank == 1)
    # Lock the rows while selecting them: otherwise two claims of the same rows could deadlock.
    picked = lock_picked(
        select(WebhookDelivery.webhook_id, WebhookDelivery.event_id).where(_KEY.in_(first), *_due())
    )
    return update_returning(
        session,
        WebhookDelivery,
        (_KEY.in_(picked), *_due()),
        attempts=WebhookDelivery.attempts + 1,
        next_attempt_at=now_ms() + LEASE_MS,
        last_attempt_at=now_ms(),
    )


def lock_webhook(session: Session, webhook_id: str) -> Webhook | None:
    """Lock a webhook until the end of the transaction; None if it was deleted.

    Lock it before its messages, which is the order of a delete, to prevent deadlocks.
    """
    return session.scalar(
        select(Webhook)
        .where(Webhook.id == webhook_id)
        .with_for_update(key_share=True)  # does not block ``enqueue``
        .execution_options(populate_existing=True)
    )


def finish(session: Session, delivery: WebhookDelivery, **values: Any) -> bool:
    """Write the result of an attempt unless a later attempt has begun; return whether it was
    written."""
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


def _enqueue(session: Session, event_type: str, data: Mapping[str, Any], *conditions: Any) -> str:
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
            .where(*conditions)
            # Wait for webhooks that are being deleted, and leave them out: a message to one would
            # violate the foreign key and abort the transaction of the job.
            .with_for_update(read=True, key_share=True),
        )
    )
    return event_id


def retry_delay_ms(attempts: int) -> int:
    """Return the delay in milliseconds after the given number of attempts."""
    delay = full_jitter(
        attempts - 1, base=BACKOFF_MS, maximum=BACKOFF_MAX_MS, factor=BACKOFF_FACTOR
    )
    return round(delay)


def _due() -> tuple[Any, ...]:
    """Return the conditions under which a message is due.

    A message without an attempt, or with a delay above the maximum, is due as well: its time is
    wrong because the database's clock was set back.
    """
    at = WebhookDelivery.next_attempt_at
    longest = {
        attempts: max(LEASE_MS, min(BACKOFF_MS * BACKOFF_FACTOR ** (attempts - 1), BACKOFF_MAX_MS))
        for attempts in range(1, MAX_ATTEMPTS + 1)
    }
    is_over = at > now_ms() + case(longest, value=WebhookDelivery.attempts, else_=BACKOFF_MAX_MS)
    return (
        WebhookDelivery.status == "pending",
        or_(at <= now_ms(), WebhookDelivery.attempts == 0, is_over),
    )
