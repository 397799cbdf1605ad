"""Sends webhook messages and records the outcomes; no transaction is open while sending."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ssl import SSLContext

import anyio
import httpcore
import structlog
from sqlalchemy import Engine
from standardwebhooks import Webhook as Signer

from app.audit import log as audit_log
from app.audit.log import Actor
from app.core.database import now_ms, transaction
from app.core.errors import ServiceError
from app.core.settings import Settings
from app.models import Webhook, WebhookDelivery
from app.web.pagination import rfc3339
from app.webhooks import outbox
from app.webhooks.guard import GuardedBackend, RefusedError, check_url

log = structlog.get_logger()

#: A webhook that has failed for this long is disabled when a message fails for the last time.
DISABLE_AFTER_MS = 3 * 86_400_000
#: Total time for name resolution, connection, TLS and response.
TIMEOUT_SECONDS = 5.0
KEPT_RESPONSE_BYTES = 1024
#: Response status of a receiver that wants no more messages (Standard Webhooks).
GONE = 410
Headers = Mapping[bytes | str, bytes | str]


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt."""

    status: int | None = None
    body: str | None = None
    error: str | None = None


class Sender:
    """Sends signed messages."""

    def __init__(
        self,
        settings: Settings,
        backend: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._backend = backend or GuardedBackend(settings)
        # Loading the certificates takes longer than sending a message.
        needs_tls = ssl_context is None and settings.webhook_hosts
        self._ssl_context = httpcore.default_ssl_context() if needs_tls else ssl_context

    async def send(self, webhook: Webhook, delivery: WebhookDelivery) -> Outcome:
        """Send a message once; return the outcome."""
        try:
            # Check again, because the operator may have changed the allowed hosts.
            check_url(self._settings, webhook.url)
            body = message_body(delivery)
            headers = signed_headers(webhook, delivery, body, datetime.now(UTC))
            with anyio.fail_after(TIMEOUT_SECONDS):
                return await self._exchange(webhook.url, headers, body)
        except TimeoutError:
            return Outcome(error=f"no response within {TIMEOUT_SECONDS:g} s")
        except (ServiceError, RefusedError) as error:
            return Outcome(error=str(error)[:200])
        except (
            OSError,  # unknown host name, broken TLS
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
        ) as error:
            return Outcome(error=f"{type(error).__name__}: {error}"[:200])

    async def _exchange(self, url: str, headers: Headers, body: str) -> Outcome:
        """Send one request over one connection, without redirects, proxies or cookies."""
        kept = b""
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._ssl_context, network_backend=self._backend
            ) as pool,
            pool.stream("POST", url, headers=headers, content=body.encode()) as response,
        ):
            async for chunk in response.aiter_stream():
                kept += chunk[:KEPT_RESPONSE_BYTES]
                if len(kept) >= KEPT_RESPONSE_BYTES:
                    break  # the rest of the response is not stored
        text = kept[:KEPT_RESPONSE_BYTES].decode(errors="replace").replace("\0", "\ufffd")
        if 200 <= response.status < 300:
            return Outcome(response.status, text)
        return Outcome(response.status, text, f"the response had status {response.status}")


def record_outcome(engine: Engine, delivery: WebhookDelivery, outcome: Outcome) -> None:
    """Write the outcome of an attempt; disable the webhook if it has failed for too long."""
    is_last = delivery.attempts >= outbox.MAX_ATTEMPTS or delivery.type == "webhook.test"
    if outcome.error is None:
        status = "delivered"
    else:
        status = "failed" if is_last or outcome.status == GONE else "pending"
    with transaction(engine) as session:
        webhook = outbox.lock_webhook(session, delivery.webhook_id)
        if webhook is None or not outbox.finish(
            session,
            delivery,
            status=status,
            next_attempt_at=now_ms() + outbox.retry_delay_ms(delivery.attempts),
            response_status=outcome.status,
            response_body=outcome.body,
            error=outcome.error,
        ):
            return
        if status == "delivered":
            webhook.failing_since = webhook.disabled_at = None
            return
        if webhook.failing_since is None:
            webhook.failing_since = delivery.last_attempt_at
        is_defunct = outcome.status == GONE or _has_failed_for_days(webhook, delivery)
        if status == "failed" and webhook.disabled_at is None and is_defunct:
            outbox.disable(session, webhook, "the webhook was disabled")
            audit_log.record(session, Actor(webhook.tenant_id), "webhook.disable", webhook.id)
            log.warning("webhook_disabled", webhook_id=webhook.id, error=outcome.error)


def message_body(delivery: WebhookDelivery) -> str:
    """Return the JSON that is signed and sent. It is the same in every attempt."""
    message = {
        "type": delivery.type,
        "timestamp": rfc3339(delivery.created_at),
        "data": delivery.data,
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def signed_headers(webhook: Webhook, delivery: WebhookDelivery, body: str, at: datetime) -> Headers:
    """Return the headers of Standard Webhooks, with a signature for each valid secret."""
    secrets = [webhook.secret]
    now = delivery.last_attempt_at or 0
    if webhook.old_secret and (webhook.old_secret_expires_at or 0) > now:
        secrets.append(webhook.old_secret)
    return {
        "Content-Type": "application/json",
        "User-Agent": "Plaudit-Webhooks/1",
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(
            Signer(secret).sign(delivery.event_id, at, body) for secret in secrets
        ),
    }


def _has_failed_for_days(webhook: Webhook, delivery: WebhookDelivery) -> bool:
    since, now = webhook.failing_since or 0, delivery.last_attempt_at or 0
    return now - since >= DISABLE_AFTER_MS
