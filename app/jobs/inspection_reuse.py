"""Find an inspection whose result a new request can reuse."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import ColumnElement, and_, or_

from app.core.database import now_ms
from app.domain.lifecycle import FailureCode, JobStatus
from app.domain.spec import RewardJobSpec
from app.job_queue import kinds
from app.jobs.spec_resolution import ResolvedSpec
from app.models import Job

#: How long a base model that failed its inspection is not inspected again: the operator may repair
#: it, and an inspection that grows or hangs must not be started by every request.
FAILED_MS = 60_000
#: Inspections that run, or that have just found a base model which cannot be used.
_IS_RECENT = or_(
    Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
    and_(
        Job.status == JobStatus.FAILED,
        Job.failure_code.in_(
            [FailureCode.MODEL_UNSUPPORTED, FailureCode.OUT_OF_MEMORY, FailureCode.TIMED_OUT]
        ),
        Job.finished_at.between(now_ms() - FAILED_MS, now_ms()),
    ),
)


def same_inspections(
    tenant_id: str, resolved: ResolvedSpec, queue: str, *, has_data: bool
) -> list[ColumnElement[bool]]:
    """Return the SQL conditions that a job is an inspection with the wanted result."""
    conditions = [Job.kind == kinds.INSPECT.name, Job.queue == queue]
    if not has_data:
        # Facts of a base model belong to no tenant, so any tenant's inspection can be used.
        is_of_model = Job.base_model == resolved.entry.id
        return [*conditions, is_of_model, Job.train_dataset_id.is_(None), _IS_RECENT]
    # Datasets are immutable, so an earlier result for the same spec still holds.
    is_usable = or_(
        _IS_RECENT,
        Job.status == JobStatus.SUCCEEDED,
        Job.failure_code.in_([FailureCode.DATASET_INVALID, FailureCode.PAIRS_OVERLONG]),
    )
    return [
        *conditions,
        Job.tenant_id == tenant_id,
        Job.spec_sha256 == spec_fingerprint(resolved.spec),
        Job.train_dataset_id.is_not(None),
        is_usable,
    ]


def spec_fingerprint(spec: RewardJobSpec) -> str:
    """Return a hash (sha256, hex) of everything that the result of an inspection depends on."""
    document = spec.model_dump(mode="json", exclude={"name", "priority", "metadata"})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
