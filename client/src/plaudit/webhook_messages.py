"""Messages of webhooks, verified as Standard Webhooks (standardwebhooks.com) prescribes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from plaudit.errors import SignatureError

#: How far the sender's clock may be from ours, as the standard's libraries have it.
TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"
_LEAST_SECRET_BYTES = 16


class WebhookMessage(BaseModel):
    """A verified message."""

    id: str
    """The same at every attempt: a message that was seen before can be left out."""
    type: str
    """``job.running``, ``job.paused``, ``job.succeeded``, ``job.failed``, ``job.cancelled``, the
    same of evaluations (``evaluation.succeeded`` …) or ``webhook.test``."""
    timestamp: datetime
    data: dict[str, Any]
    """The job as ``client.jobs.list`` shows it, at the time of the event. That of an evaluation has
    the evaluation's id."""


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> WebhookMessage:
    """The message of a request, if the secret signed it and it is fresh.

    Args:
        body: the request's body, byte for byte as it came.
        headers: the request's headers; their names in any case.
        secret: ``whsec_…``, from ``client.webhooks.create`` or ``rotate_secret``.
        tolerance_seconds: how old a message may be, and how far in the future.

    Raises:
        SignatureError: it is not to be trusted.
        ValueError: the secret is none.
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
    # All are compared, so that the time tells nothing.
    matches = [hmac.compare_digest(expected, signature) for signature in _decoded(signatures)]
    if not any(matches):
        raise SignatureError(
            "No signature of the message is of this secret.",
            hint="Pass the body exactly as it came, and the webhook's newest secret.",
        )
    try:
        return WebhookMessage.model_validate({**json.loads(content), "id": message_id})
    except (ValueError, TypeError) as error:
        raise SignatureError("The message is signed, but is no message of Plaudit's.") from error


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("The secret is no webhook secret: whsec_ and base64.") from error
    if len(key) < _LEAST_SECRET_BYTES:
        raise ValueError("The secret is too short for a webhook secret.")
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    if not (value := headers.get(name)):
        raise SignatureError(f"The message has no header {name}.")
    return value


def _check_time(sent_at: str, tolerance_seconds: int) -> None:
    if not sent_at.isascii() or not sent_at.isdecimal():
        raise SignatureError("The header webhook-timestamp is no number of seconds.")
    age = time.time() - int(sent_at)
    if age > tolerance_seconds:
        raise SignatureError(f"The message is {age:.0f} s old.", hint="It may be a replay.")
    if age < -tolerance_seconds:
        raise SignatureError(
            f"The message is from {-age:.0f} s in the future.", hint="Check this machine's clock."
        )


def _decoded(signatures: str) -> Iterator[bytes]:
    """Those of version 1, of which there are two while a secret is being rotated."""
    for signature in signatures.split():
        version, _, value = signature.partition(",")
        if version == "v1":
            try:
                yield base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                continue
