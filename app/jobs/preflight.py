"""From a spec to a plan before anything is queued, if a worker can look at the base model in time.

The facts about a base model come from a worker, which has its files and the libraries. Where they
are known a submit is answered at once; else it waits a little for an inspection that it asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread
from sqlalchemy import Engine, or_, select

from app.base_models.catalogue import Catalogue
from app.core.broker import Tickets
from app.core.database import new_id, reader, transaction
from app.core.errors import FieldProblem, InvalidSpecError, UnavailableError
from app.core.settings import Settings
from app.domain.lifecycle import (
    LIVE,
    DesiredState,
    FailureCategory,
    FailureCode,
    JobStatus,
)
from app.domain.plan import TrainingPlan
from app.domain.spec import RewardJobSpec
from app.domain.warnings import WarningCode
from app.job_queue import kinds, transitions
from app.job_queue.watcher import Watcher
from app.jobs.spec_resolution import ResolvedSpec, plan_resolved, resolve_spec
from app.models import Job, JobReport

#: The fields that failures of an inspection are about; the others are about the base model.
FIELDS = {
    FailureCode.DATASET_INVALID: "/train_dataset",
    FailureCode.PAIRS_OVERLONG: "/training/max_length",
    FailureCode.QUANTIZATION_UNAVAILABLE: "/quantization",
}


class DataPreview(NamedTuple):
    """What a worker said of a spec before anything was trained."""

    reports: dict[str, Any]  # by name; empty if no worker had time
    warnings: list[dict[str, Any]]


@dataclass(frozen=True)
class Preflight:
    """Asks workers about base models on behalf of submits."""

    engine: Engine
    settings: Settings
    catalogue: Catalogue
    tickets: Tickets
    watcher: Watcher

    async def plan_in_time(self, tenant_id: str, spec: RewardJobSpec) -> TrainingPlan | None:
        """The plan of a spec, or None: then the worker that takes the job makes it.

        Raises:
            InvalidSpecError: names every field that stands in the way.
        """
        try:
            return await self.plan(tenant_id, spec)
        except UnavailableError:
            return None

    async def plan(self, tenant_id: str, spec: RewardJobSpec) -> TrainingPlan:
        """The plan of a spec.

        Raises:
            InvalidSpecError: names every field that stands in the way.
            UnavailableError: no worker looked at its base model in time.
        """
        draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        if draft.facts is None:
            ask = partial(self._ask, tenant_id, draft, has_data=False)
            await self._outcome(await to_thread.run_sync(ask))
            draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        if draft.facts is None:  # another entry of the catalogue, or another version, since
            raise _not_looked_at()
        return plan_resolved(draft, draft.facts)

    async def foresight(self, tenant_id: str, spec: RewardJobSpec) -> DataPreview:
        """What a worker says about this spec's data and memory.

        Raises:
            InvalidSpecError: the worker found that it cannot be trained.
        """
        try:
            return await self._foresight(tenant_id, await self._inspect_data(tenant_id, spec))
        except UnavailableError as error:
            note = {"code": WarningCode.NOT_REPORTED, "message": f"Without reports: {error.detail}"}
            return DataPreview({}, [note])

    async def dataset_report(self, tenant_id: str, spec: RewardJobSpec) -> Any:
        """What is odd about the data, trainable or not.

        Raises:
            InvalidSpecError: the worker found a reason to look no further.
            UnavailableError: no worker had it ready in time.
        """
        inspection = await self._inspect_data(tenant_id, spec)
        try:
            said = await self._foresight(tenant_id, inspection)
        except InvalidSpecError:
            said = await to_thread.run_sync(self._said, inspection)
            if "dataset" not in said.reports:
                raise
        return said.reports["dataset"]

    async def _inspect_data(self, tenant_id: str, spec: RewardJobSpec) -> str:
        draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        return await to_thread.run_sync(partial(self._ask, tenant_id, draft, has_data=True))

    async def _foresight(self, tenant_id: str, inspection: str) -> DataPreview:
        try:
            await self._outcome(inspection)
        except UnavailableError:
            await to_thread.run_sync(self._forget, tenant_id, inspection)
            raise
        return await to_thread.run_sync(self._said, inspection)

    async def _outcome(self, inspection: str) -> None:
        """Waits a while for the inspection to succeed."""
        await self.watcher.wait(
            inspection,
            lambda state: state.status not in LIVE,
            self.settings.preflight_wait_seconds,
        )
        await to_thread.run_sync(self._hold_success, inspection)

    def _draft(self, tenant_id: str, spec: RewardJobSpec) -> ResolvedSpec:
        with transaction(reader(self.engine)) as session:
            return resolve_spec(session, self.settings, self.catalogue, tenant_id, spec)

    def _ask(self, tenant_id: str, draft: ResolvedSpec, *, has_data: bool) -> str:
        """The id of the inspection of this kind that there is, or of a fresh one."""
        spec, queue = draft.spec, kinds.INSPECT.queue(self.settings)
        wanted = [Job.kind == kinds.INSPECT.name, Job.queue == queue]
        live = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
        if has_data:
            # What a worker said of the same spec before still holds: data are immutable.
            said = or_(
                live,
                Job.status == JobStatus.SUCCEEDED,
                Job.failure_code.in_([FailureCode.DATASET_INVALID, FailureCode.PAIRS_OVERLONG]),
            )
            wanted += [Job.tenant_id == tenant_id, Job.spec_sha256 == _print_of(spec), said]
            wanted.append(Job.train_dataset_id.is_not(None))
        else:
            # Facts belong to nobody, so anybody's inspection will do.
            wanted += [Job.base_model == draft.entry.id, Job.train_dataset_id.is_(None), live]
        with transaction(self.engine) as session:
            known = session.scalar(select(Job.id).where(*wanted).order_by(Job.id.desc()).limit(1))
            if known is not None:
                return known
            job = transitions.insert_job(
                session,
                Job(
                    id=new_id("job"),
                    tenant_id=tenant_id,
                    kind=kinds.INSPECT.name,
                    queue=queue,
                    spec=spec.model_dump(mode="json", exclude_unset=True),
                    spec_sha256=_print_of(spec),
                    base_model=draft.entry.id,
                    train_dataset_id=draft.train.id if has_data else None,
                    eval_dataset_id=draft.evaluation.id if has_data and draft.evaluation else None,
                ),
            )
        self.tickets.issue(queue)
        return job.id

    def _forget(self, tenant_id: str, inspection: str) -> None:
        """Take back what nobody claimed: it would keep its dataset from being deleted."""
        with transaction(self.engine) as session:
            is_waiting = select(Job.id).where(Job.id == inspection, Job.status == JobStatus.QUEUED)
            if session.scalar(is_waiting) is not None:
                transitions.set_desired_state(session, tenant_id, inspection, DesiredState.CANCEL)

    def _said(self, inspection: str) -> DataPreview:
        with reader(self.engine).connect() as connection:
            reports = connection.execute(
                select(JobReport.name, JobReport.document).where(JobReport.job_id == inspection)
            ).all()
            warnings = connection.execute(select(Job.warnings).where(Job.id == inspection))
            return DataPreview({r.name: r.document for r in reports}, warnings.scalar() or [])

    def _hold_success(self, inspection: str) -> None:
        """Refuses the spec if the inspection ended with a reason to."""
        with reader(self.engine).connect() as connection:
            row = connection.execute(
                select(Job.status, Job.failure_code, Job.failure_detail).where(Job.id == inspection)
            ).one_or_none()
        if row is not None and row.status == JobStatus.SUCCEEDED:
            return
        if row is None or row.failure_code is None:
            raise _not_looked_at()
        code, detail = FailureCode(row.failure_code), row.failure_detail or ""
        category, _, hint = code.failure
        # What is nobody's fault here may be over when a worker takes the job.
        is_about_spec = category in (FailureCategory.USER, FailureCategory.RESOURCE)
        if row.status != JobStatus.FAILED or not is_about_spec:
            raise _not_looked_at(detail)
        loc = FIELDS.get(code, "/base_model")
        raise InvalidSpecError(
            f"A worker found: {detail}", hint=hint, problems=[FieldProblem(loc, code, detail, hint)]
        )


def _print_of(spec: RewardJobSpec) -> str:
    """What a worker would say hangs on nothing but this: sha256 hex."""
    asked = spec.model_dump(mode="json", exclude={"name", "priority", "metadata"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _not_looked_at(why: str | None = None) -> UnavailableError:
    if why:
        return UnavailableError(
            f"A worker could not look at it: {why}",
            hint="Ask again later; the operator finds the cause on the worker.",
        )
    return UnavailableError(
        "No worker had looked at it in time.",
        hint="Ask again; start a worker if none runs. A job can be submitted all the same: the "
        "worker that takes it checks the spec first.",
    )
