"""Verifies webhook messages according to Standard Webhooks (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from plaudit.errors import SignatureError

#: Seconds that a timestamp may be old or in the future; the default of the standard's libraries.
TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 16


class WebhookMessage(BaseModel):
    """A verified message."""

    id: str
    """Identical for every delivery attempt: use it to ignore a message that was received before."""
    type: str
    """``job.running``, ``job.paused``, ``job.succeeded``, ``job.failed``, ``job.cancelled``, the
    same types for evaluations and score batches (``evaluation.succeeded`` …,
    ``score_batch.succeeded`` …), or ``webhook.test``."""
    timestamp: datetime
    data: dict[str, Any]
    """The job at the time of the event, with the fields of ``client.jobs.list``; the id is that
    of the evaluation or of the score batch for their events."""


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> WebhookMessage:
    """Verify the signature and the timestamp of a request, and return its message.

    Args:
        body: the body of the request, byte for byte as it was received.
        headers: the headers of the request; names are case-insensitive.
        secret: ``whsec_…``, from ``client.webhooks.create`` or ``rotate_secret``.
        tolerance_seconds: maximum age of a message, and maximum distance into the future, in
            seconds.

    Raises:
        SignatureError: the signature, the timestamp or the message is invalid.
        ValueError: ``secret`` is not a webhook secret.
    """
    key = _key(secret)
    content = body.encode() if isinstance(body, str) else bytes(body)
    given = {name.lower(): value for name, value in headers.items()}
    message_id, sent_at, signatures = (
        _header(given, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    _check_time(sent_at, tolerance_seconds)
    signed = f"{message_id}.{sent_at}.".encode() + content
    expected = hmac.digest(key, signed, hashlib.sha256)
    # Compare all signatures: the duration must not depend on which of them matches.
    matches = [hmac.compare_digest(expected, signature) for signature in _decoded(signatures)]
    if not any(matches):
        raise SignatureError(
            "No signature of the message matches this secret.",
            hint="Pass the body exactly as it was received, and the webhook's newest secret.",
        )
    try:
        return WebhookMessage.model_validate({**json.loads(content), "id": message_id})
    except (ValueError, TypeError) as error:
        raise SignatureError("The signature is valid, but the body is not a message.") from error


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "The secret is not a webhook secret: it must be whsec_ followed by base64."
        ) from error
    if len(key) < _MIN_SECRET_BYTES:
        raise ValueError(
            f"The secret is too short: a webhook secret has {_MIN_SECRET_BYTES} bytes or more."
        )
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    if not (value := headers.get(name)):
        raise SignatureError(f"The header {name} is missing.")
    return value


def _check_time(sent_at: str, tolerance_seconds: int) -> None:
    if not re.fullmatch(r"[0-9]{1,18}", sent_at):
        raise SignatureError("The header webhook-timestamp is not a number of seconds.")
    age = time.time() - int(sent_at)
    if age > tolerance_seconds:
        raise SignatureError(
            f"The message is {age:.0f} s old; {tolerance_seconds} s are allowed.",
            hint="It may be a replay. Check this machine's clock.",
        )
    if age < -tolerance_seconds:
        raise SignatureError(
            f"The timestamp of the message is {-age:.0f} s in the future.",
            hint="Check this machine's clock.",
        )


def _decoded(signatures: str) -> Iterator[bytes]:
    """Yield the signatures of version 1; there are two while a secret is being rotated."""
    for signature in signatures.split():
        version, _, value = signature.partition(",")
        if version == "v1":
            try:
                yield base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                continue
