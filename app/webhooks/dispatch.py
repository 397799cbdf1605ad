"""Chooses due webhook messages fairly between tenants, and sends many of them concurrently."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup
from sqlalchemy import Engine, select

from app.core.database import reader, transaction
from app.core.settings import Settings
from app.core.shares import Shares
from app.models import Webhook, WebhookDelivery
from app.webhooks import outbox
from app.webhooks.circuits import Circuits
from app.webhooks.delivery import Sender, record_outcome
from app.webhooks.outbox import DueWebhook

log = structlog.get_logger()

#: Maximum number of messages that one process sends concurrently.
MAX_AT_ONCE = 64
#: Maximum number of messages of one webhook that are sent concurrently.
MAX_PER_WEBHOOK = 2
#: Threads that claim messages, write outcomes and wait for the next round.
DATABASE_THREADS = 4
#: Seconds between two searches for due messages while others are being sent.
BUSY_SECONDS = 0.2
#: Seconds between two deletions of old messages.
DELETE_OLD_SECONDS = 3600.0


class Message(NamedTuple):
    """A claimed message and its webhook."""

    webhook: Webhook
    delivery: WebhookDelivery


class Dispatcher:
    """Claims due messages in a fair order and sends them."""

    def __init__(self, engine: Engine, sender: Sender) -> None:
        self._engine, self._sender = engine, sender
        self._circuits = Circuits()
        self._shares = Shares(MAX_AT_ONCE)
        self._sent_now: Counter[str] = Counter()  # by webhook
        self._lock = threading.Lock()  # claims run in another thread than deliveries

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent."""
        return not self._sent_now

    def claim(self) -> list[Message]:
        """Claim at most one due message of each webhook, up to the number of free places.

        Tenants take turns, and no tenant takes more than its share of the places.
        """
        with transaction(reader(self._engine)) as session:
            due = outbox.due_webhooks(session)
        with self._lock:
            chosen = self._choose(due)
        if not chosen:
            return []
        with transaction(self._engine) as session:
            claimed = outbox.claim(session, chosen)
            webhooks = {
                webhook.id: webhook
                for webhook in session.scalars(
                    select(Webhook).where(Webhook.id.in_({d.webhook_id for d in claimed}))
                )
            }
        # A webhook may have been deleted in the meantime, together with its messages.
        messages = [Message(webhooks[d.webhook_id], d) for d in claimed if d.webhook_id in webhooks]
        with self._lock:
            for message in messages:
                self._shares.take(message.webhook.tenant_id)
                self._sent_now[message.webhook.id] += 1
        return messages

    async def deliver(self, message: Message) -> None:
        """Send a message and write the outcome."""
        webhook, delivery = message
        try:
            outcome = await self._sender.send(webhook, delivery)
            with self._lock:
                self._circuits.record(webhook.url, has_responded=outcome.status is not None)
            await to_thread.run_sync(record_outcome, self._engine, delivery, outcome)
        except Exception:
            # No outcome was written, so the message is sent again when its lease expires.
            log.warning("webhook_failed", webhook_id=webhook.id, exc_info=True)
        finally:
            with self._lock:
                self._shares.give_back(webhook.tenant_id)
                self._sent_now -= Counter([webhook.id])

    def _choose(self, due: Iterable[DueWebhook]) -> list[str]:
        by_tenant: dict[str, list[str]] = {}
        for webhook in due:  # sorted by due time
            most = 1 if self._circuits.is_suspect(webhook.url) else MAX_PER_WEBHOOK
            if self._sent_now[webhook.id] < most and not self._circuits.is_open(webhook.url):
                by_tenant.setdefault(webhook.tenant_id, []).append(webhook.id)
        planned = Counter({tenant: self._shares.held(tenant) for tenant in by_tenant})
        free, chosen = self._shares.free, []
        turns = sorted(by_tenant, key=planned.__getitem__)
        for turn in itertools.zip_longest(*(by_tenant[tenant] for tenant in turns)):
            for tenant, webhook_id in zip(turns, turn, strict=True):
                if webhook_id is not None and free > planned[tenant]:
                    chosen.append(webhook_id)
                    planned[tenant] += 1
                    free -= 1
        return chosen


class Deliverer(threading.Thread):
    """Thread that sends due messages. Any number of processes may run one."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(name="deliverer", daemon=True)
        self._engine, self._settings = engine, settings
        self._sender = Sender(settings)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Run until stopped; log errors and try again in the next round."""
        while not self._stopping.is_set():
            try:
                anyio.run(self._run)
            except Exception:  # such as no memory for a thread that waits for the next round
                log.exception("webhooks_failed")
                self._stopping.wait(self._settings.reconcile_seconds)

    async def _run(self) -> None:
        to_thread.current_default_thread_limiter().total_tokens = DATABASE_THREADS
        self._dispatcher = Dispatcher(self._engine, self._sender)
        async with anyio.create_task_group() as group:
            delete_at = 0.0
            while not await self._pause():
                try:
                    await self._start_due(group)
                    if anyio.current_time() >= delete_at:
                        delete_at = anyio.current_time() + DELETE_OLD_SECONDS
                        await to_thread.run_sync(self._delete_old)
                except Exception:
                    log.warning("webhooks_failed", exc_info=True)

    async def _start_due(self, group: TaskGroup) -> None:
        while messages := await to_thread.run_sync(self._dispatcher.claim):
            for message in messages:
                group.start_soon(self._dispatcher.deliver, message)

    def _delete_old(self) -> None:
        with transaction(self._engine) as session:
            outbox.delete_old(session)

    async def _pause(self) -> bool:
        """Wait for the next round; return whether the thread was asked to stop."""
        seconds = self._settings.reconcile_seconds
        if not self._dispatcher.is_idle:
            seconds = min(seconds, BUSY_SECONDS)
        return await to_thread.run_sync(self._stopping.wait, seconds)

    def stop(self) -> None:
        """Stop after the current messages have been sent; wait up to ten seconds."""
        self._stopping.set()
        self.join(timeout=10)
