"""Idempotency keys: a request that is repeated gets the job that the first one created."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core.database import now_ms
from app.core.errors import InvalidError
from app.job_queue import kinds, transitions
from app.models import Job

#: Milliseconds after which an idempotency key may be used for another job.
KEY_KEPT_MS = 86_400_000
#: Set in the response to a repeated request.
REPLAYED = "Idempotency-Replayed"

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A request with the same key and body returns the same job, for 24 hours.",
    ),
]


class KeyReusedError(InvalidError):
    """The Idempotency-Key was used for a different request."""

    code = "idempotency_key_reused"
    title = "The Idempotency-Key was used before"
    next_step = "Use a new Idempotency-Key for each new request."


def find_replay(session: Session, tenant_id: str, key: str | None, fingerprint: str) -> Job | None:
    """Return the job that the same request created in the last 24 hours, or None.

    ``fingerprint`` is the job's ``spec_sha256``, which is equal for requests with the same content.

    Raises:
        KeyReusedError: the key created a job from another request.
    """
    if key is None:
        return None
    job = session.scalar(
        select(Job).where(
            Job.tenant_id == tenant_id,
            Job.idempotency_key == key,
            Job.created_at >= now_ms() - KEY_KEPT_MS,
        )
    )
    if job is None:
        return None
    if job.spec_sha256 != fingerprint:
        kind = kinds.find(job.kind)
        raise KeyReusedError(
            f"This Idempotency-Key was used for {kind.public_id(job.id) if kind else job.id}, from "
            "a different request.",
            hint="Use a new key for a new request.",
        )
    return job


def insert_once(session: Session, job: Job) -> tuple[Job, bool]:
    """Insert a job, or find the job of an identical concurrent request; return it, and which of
    both.

    Raises:
        KeyReusedError: another request with the same key came at the same time.
        IntegrityError: a dataset that the job names was deleted.
    """
    _release_expired_key(session, job.tenant_id, job.idempotency_key)
    key, fingerprint, tenant_id = job.idempotency_key, job.spec_sha256, job.tenant_id
    try:
        return transitions.insert_job(session, job), False
    except transitions.DuplicateKeyError:  # the same request came at the same time
        known = find_replay(session, tenant_id, key, fingerprint)
        if known is None:
            raise
        return known, True


def _release_expired_key(session: Session, tenant_id: str, key: str | None) -> None:
    """Take the key from the job that it created more than 24 hours ago."""
    if key is None:
        return
    session.execute(
        update(Job)
        .where(
            Job.tenant_id == tenant_id,
            Job.idempotency_key == key,
            Job.created_at < now_ms() - KEY_KEPT_MS,
        )
        .values(idempotency_key=None)
        .execution_options(synchronize_session=False)
    )
