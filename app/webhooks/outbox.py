"""Messages are rows: written with what they tell about, claimed by whoever sends them.

At least once: an attempt that nobody ended (its process died) is made again.
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

#: Messages that one webhook has under way at once: a slow address does not hold up the others.
AT_ONCE = 2
#: Ended messages are shown this long.
KEPT_MS = 30 * 86_400_000
_ANNOUNCED = frozenset(get_args(EventType))
_KEY = tuple_(WebhookDelivery.webhook_id, WebhookDelivery.event_id)


def enqueue(session: Session, tenant_id: str, event_type: str, data: Mapping[str, Any]) -> None:
    """Queue a message for each live webhook of the tenant that asked for such events."""
    if event_type in _ANNOUNCED:
        # As JSON both databases write it; the quotes keep one name from being found in another.
        wants = cast(Webhook.events, Text).contains(f'"{event_type}"', autoescape=True)
        wanted = (Webhook.tenant_id == tenant_id, Webhook.disabled_at.is_(None), wants)
        _enqueue(session, event_type, data, *wanted)


def enqueue_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Queue a ``webhook.test`` message, also for a webhook that is disabled."""
    event_id = _enqueue(session, "webhook.test", {"id": webhook.id}, Webhook.id == webhook.id)
    return session.get_one(WebhookDelivery, (webhook.id, event_id))


def is_due(session: Session) -> bool:
    """Whether a claim would find anything; takes no lock."""
    return session.scalar(select(WebhookDelivery.event_id).where(*_due()).limit(1)) is not None


def claim(session: Session, count: int, lease_ms: int) -> list[WebhookDelivery]:
    """Take up to ``count`` due messages for ``lease_ms``; no other caller gets the same."""
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
            .label("place"),
        )
        .where(*_due())
        .subquery()
    )
    first = (
        select(ranked.c.webhook_id, ranked.c.event_id)
        .where(ranked.c.place <= AT_ONCE)
        .order_by(ranked.c.next_attempt_at)
        .limit(count)
    )
    # Locked where they are chosen: two claims that update the same rows could wait for each other.
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


def held(session: Session, webhook_id: str) -> Webhook | None:
    """The webhook, locked until the end of the transaction; None when it was deleted.

    To be taken before its messages are: a delete takes them in this order, too.
    """
    return session.scalar(
        select(Webhook)
        .where(Webhook.id == webhook_id)
        .with_for_update(key_share=True)  # does not hold up ``enqueue``
        .execution_options(populate_existing=True)
    )


def finish(session: Session, delivery: WebhookDelivery, **values: Any) -> bool:
    """Write how an attempt ended, unless a later attempt has begun; whether it was written."""
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


def give_up(session: Session, webhook: Webhook, reason: str) -> None:
    """End a webhook and all that waits for it."""
    webhook.disabled_at = now_ms()
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.status == "pending")
        .values(status="failed", error=reason)
        .execution_options(synchronize_session=False)
    )


def forget_old(session: Session) -> None:
    """Drop messages that ended long ago."""
    session.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.status != "pending", WebhookDelivery.created_at < now_ms() - KEPT_MS
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
            # A webhook that is being deleted is waited for, then left out: a message to it would
            # break its foreign key and with that the transaction of the job.
            .with_for_update(read=True, key_share=True),
        )
    )
    return event_id


def _due() -> tuple[Any, ...]:
    return (WebhookDelivery.status == "pending", WebhookDelivery.next_attempt_at <= now_ms())
