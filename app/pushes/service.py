"""Requests and finds pushes of adapters to the operator's hub."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.core.database import new_id
from app.core.errors import FieldProblem, InvalidError, NotFoundError, QuotaError
from app.core.settings import Settings
from app.domain.lifecycle import LIVE
from app.job_queue import kinds, transitions
from app.models import Job
from app.pushes.schemas import PushCreate

#: Maximum number of unfinished pushes of a tenant.
MAX_LIVE = 10


class PushNotFoundError(NotFoundError):
    """No push of this adapter was requested."""

    code = "push_not_found"
    title = "No push"
    next_step = "Request one: `POST /v1/adapters/{id}/push`."


class TargetNotAllowedError(InvalidError):
    """The operator's PLAUDIT_PUSH_TARGETS does not name this repository."""

    code = "target_not_allowed"
    title = "The repository is not allowed"
    next_step = "Ask the operator to allow the repository, or download the adapter and push it."


def request_push(
    session: Session, settings: Settings, tenant_id: str, adapter_id: str, body: PushCreate
) -> Job:
    """Queue a push, and return its job.

    Raises:
        AdapterNotFoundError, TargetNotAllowedError, QuotaError
    """
    adapter = adapters.get(session, tenant_id, adapter_id)
    _check_allowed(settings, body.repo)
    live = session.scalar(
        select(func.count()).where(
            Job.tenant_id == tenant_id, Job.kind == kinds.PUSH.name, Job.status.in_(LIVE)
        )
    )
    if (live or 0) >= MAX_LIVE:
        raise QuotaError(
            f"This tenant has {live} unfinished pushes; the limit is {MAX_LIVE}.",
            hint="Wait until one of them has ended.",
        )
    spec = body.model_dump(mode="json") | {"adapter_id": adapter_id}
    return transitions.insert_job(
        session,
        Job(
            id=new_id("push"),
            tenant_id=tenant_id,
            kind=kinds.PUSH.name,
            queue=kinds.PUSH.queue(settings),
            spec=spec,
            spec_sha256=hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
            base_model=adapter.base_model,
            parent_job_id=adapter.job_id,
        ),
    )


def newest_push(session: Session, tenant_id: str, adapter_id: str) -> Job:
    """Return the newest push of an adapter.

    Raises:
        AdapterNotFoundError, PushNotFoundError
    """
    adapter = adapters.get(session, tenant_id, adapter_id)
    job = session.scalar(
        select(Job)
        .where(
            Job.tenant_id == tenant_id,
            Job.kind == kinds.PUSH.name,
            Job.parent_job_id == adapter.job_id,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
    if job is None:
        raise PushNotFoundError(f"No push of {adapter_id} was requested.")
    return job


def _check_allowed(settings: Settings, repo: str) -> None:
    org = repo.partition("/")[0]
    if not {f"hub:{repo}", f"hub:{org}/*", "hub:*"} & settings.push_targets:
        message = f"{repo} is not among the repositories that the operator allows"
        hint = TargetNotAllowedError.next_step
        problem = FieldProblem("/repo", "target_not_allowed", message, hint)
        raise TargetNotAllowedError(f"{message}.", hint=hint, problems=[problem])
