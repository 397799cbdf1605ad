"""Request, find and cancel imports of datasets."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth.key_ring import Principal
from app.core.database import new_id, newest_first
from app.core.errors import FieldProblem, InvalidError, NotFoundError, QuotaError
from app.core.settings import Settings
from app.domain.lifecycle import LIVE, DesiredState
from app.imports.schemas import ImportCreate
from app.job_queue import kinds, transitions
from app.models import Job
from app.storage.quota import check_storage_quota

#: Limit on unfinished imports of a tenant.
MAX_LIVE = 10


class ImportNotFoundError(NotFoundError):
    """No import of this tenant has this id."""

    code = "import_not_found"
    title = "No such import"


class SourceNotAllowedError(InvalidError):
    """The operator's PLAUDIT_IMPORT_SOURCES does not name this source."""

    code = "source_not_allowed"
    title = "The source is not allowed"
    next_step = "Ask the operator to allow the source, or upload the files yourself."


def request_import(
    session: Session, settings: Settings, principal: Principal, body: ImportCreate
) -> Job:
    """Queue an import; return its job.

    Raises:
        SourceNotAllowedError, QuotaError
    """
    repo, _, revision = body.source.removeprefix("hub:").partition("@")
    _check_allowed(settings, repo)
    live = session.scalar(
        select(func.count()).where(
            Job.tenant_id == principal.tenant_id,
            Job.kind == kinds.IMPORT.name,
            Job.status.in_(LIVE),
        )
    )
    if (live or 0) >= MAX_LIVE:
        raise QuotaError(
            f"{live} imports are not finished, the limit is {MAX_LIVE}.",
            hint="Wait for one of them to end.",
        )
    check_storage_quota(session, settings, principal.tenant_id, 0)
    spec = body.model_dump(mode="json") | {"source": f"hub:{repo}@{revision or 'main'}"}
    text = json.dumps(spec, sort_keys=True)
    return transitions.insert_job(
        session,
        Job(
            id=new_id("imp"),
            tenant_id=principal.tenant_id,
            kind=kinds.IMPORT.name,
            queue=kinds.IMPORT.queue(settings),
            name=body.name or repo.rpartition("/")[2][:128],
            spec=spec,
            spec_sha256=hashlib.sha256(text.encode()).hexdigest(),
            base_model="",
        ),
    )


def get(session: Session, tenant_id: str, import_id: str) -> Job:
    """Return an import of this tenant.

    Raises:
        ImportNotFoundError
    """
    job = session.scalar(
        select(Job).where(
            Job.id == import_id, Job.tenant_id == tenant_id, Job.kind == kinds.IMPORT.name
        )
    )
    if job is None:
        raise ImportNotFoundError(f"There is no import {import_id}.")
    return job


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[Job]:
    """Return up to ``limit + 1`` imports, newest first."""
    statement = select(Job).where(Job.tenant_id == tenant_id, Job.kind == kinds.IMPORT.name)
    return list(session.scalars(newest_first(statement, Job.id, limit, after)))


def cancel(session: Session, tenant_id: str, import_id: str) -> Job:
    """Cancel an import. A finished import is not changed.

    Raises:
        ImportNotFoundError
    """
    job = get(session, tenant_id, import_id)
    cancelled = transitions.set_desired_state(session, tenant_id, import_id, DesiredState.CANCEL)
    return cancelled or job


def _check_allowed(settings: Settings, repo: str) -> None:
    org = repo.partition("/")[0]
    if not {f"hub:{repo}", f"hub:{org}/*", "hub:*"} & settings.import_sources:
        message = f"hub:{repo} is not among the sources that the operator allows"
        hint = SourceNotAllowedError.next_step
        problem = FieldProblem("/source", "source_not_allowed", message, hint)
        raise SourceNotAllowedError(f"{message}.", hint=hint, problems=[problem])
