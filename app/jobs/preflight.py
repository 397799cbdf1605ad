"""Checks of a spec before a job is queued.

The plan of a job needs facts about the base model, which only a worker can find out: it has the
files and the libraries. If the facts are known, a submission is answered at once. Otherwise it
queues an inspection and waits for it up to ``preflight_wait_seconds``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread
from sqlalchemy import Engine, select

from app.auth.scopes import Scope
from app.base_models.catalogue import Catalogue
from app.core.broker import Tickets
from app.core.database import new_id, reader, transaction
from app.core.errors import FieldProblem, ForbiddenError, InvalidSpecError, UnavailableError
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
from app.job_queue.workers import has_gpu_worker
from app.jobs.inspection_reuse import same_inspections, spec_fingerprint
from app.jobs.planning import JobDatasets
from app.jobs.spec_resolution import ResolvedSpec, plan_resolved, resolve_spec
from app.models import Job, JobEvalDataset, JobReport

#: Seconds between two checks whether the reports of a sample exist.
SAMPLE_WAIT_SECONDS = 3.0
#: The field that each failure of an inspection concerns; other failures concern the base model.
FIELDS = {
    FailureCode.DATASET_INVALID: "/train_dataset",
    FailureCode.PAIRS_OVERLONG: "/training/max_length",
    FailureCode.QUANTIZATION_UNAVAILABLE: "/quantization",
}


class DataPreview(NamedTuple):
    """Reports of a worker on the data of a spec."""

    reports: dict[str, Any]  # by name; empty if no worker made them in time
    warnings: list[dict[str, Any]]


@dataclass(frozen=True)
class Preflight:
    """Queues inspections for submissions and reads their results."""

    engine: Engine
    settings: Settings
    catalogue: Catalogue
    tickets: Tickets
    watcher: Watcher

    async def plan_in_time(self, tenant_id: str, spec: RewardJobSpec) -> TrainingPlan | None:
        """Return the plan of a spec; None if the worker that runs the job has to compile it.

        Raises:
            InvalidSpecError: names every field that does not fit.
        """
        try:
            return await self.plan(tenant_id, spec)
        except UnavailableError:
            return None

    async def plan(self, tenant_id: str, spec: RewardJobSpec) -> TrainingPlan:
        """Return the plan of a spec.

        Raises:
            InvalidSpecError: names every field that does not fit.
            UnavailableError: no worker inspected the base model in time.
        """
        resolved = await to_thread.run_sync(self._resolve, tenant_id, spec)
        if resolved.facts is None:
            request = partial(self._request_inspection, tenant_id, resolved, has_data=False)
            await self._wait_for(await to_thread.run_sync(request))
            resolved = await to_thread.run_sync(self._resolve, tenant_id, spec)
        if resolved.facts is None:  # the catalogue entry changed meanwhile
            raise _not_inspected()
        return plan_resolved(resolved, resolved.facts)

    async def preview_data(self, tenant_id: str, spec: RewardJobSpec) -> DataPreview:
        """Return a worker's reports on the data and the memory of a spec.

        Raises:
            InvalidSpecError: the worker found that the spec cannot be trained.
        """
        try:
            inspection = await self._inspect_data(tenant_id, spec, may_start=True)
            return await self._reports(tenant_id, inspection)
        except UnavailableError as error:
            note = {
                "code": WarningCode.NOT_REPORTED,
                "message": f"There are no reports: {error.detail}",
            }
            return DataPreview({}, [note])

    async def dataset_report(self, tenant_id: str, spec: RewardJobSpec, *, may_start: bool) -> Any:
        """Return the dataset report of a spec, even if the spec cannot be trained.

        Without ``may_start`` return one that exists or is being made.

        Raises:
            InvalidSpecError: the worker stopped before it made the report.
            UnavailableError: no worker made the report in time.
            ForbiddenError: there is no report, and none may be started.
        """
        inspection = await self._inspect_data(tenant_id, spec, may_start=may_start)
        try:
            preview = await self._reports(tenant_id, inspection)
        except InvalidSpecError:
            preview = await to_thread.run_sync(self._read_reports, inspection)
            if "dataset" not in preview.reports:
                raise
        return preview.reports["dataset"]

    async def _inspect_data(self, tenant_id: str, spec: RewardJobSpec, *, may_start: bool) -> str:
        resolved = await to_thread.run_sync(self._resolve, tenant_id, spec)
        request = partial(
            self._request_inspection, tenant_id, resolved, has_data=True, may_start=may_start
        )
        return await to_thread.run_sync(request)

    async def _reports(self, tenant_id: str, inspection: str) -> DataPreview:
        """Return the reports of an inspection; of a large dataset those of a sample, if needed."""
        left = self.settings.preflight_wait_seconds
        while left > 0 and not await self._is_finished(inspection, min(left, SAMPLE_WAIT_SECONDS)):
            left -= SAMPLE_WAIT_SECONDS
            preview = await to_thread.run_sync(self._read_reports, inspection)
            if (sampled := _with_sample_warning(preview)) is not None:
                return sampled
        try:
            await to_thread.run_sync(self._check_success, inspection)
        except UnavailableError:
            await to_thread.run_sync(self._cancel_if_queued, tenant_id, inspection)
            raise
        return await to_thread.run_sync(self._read_reports, inspection)

    async def _wait_for(self, inspection: str) -> None:
        """Wait up to ``preflight_wait_seconds`` for the inspection to succeed."""
        await self._is_finished(inspection, self.settings.preflight_wait_seconds)
        await to_thread.run_sync(self._check_success, inspection)

    async def _is_finished(self, inspection: str, seconds: float) -> bool:
        """Wait up to ``seconds`` for the inspection to end; return whether it has ended."""
        return await self.watcher.wait(inspection, lambda state: state.status not in LIVE, seconds)

    def _resolve(self, tenant_id: str, spec: RewardJobSpec) -> ResolvedSpec:
        with transaction(reader(self.engine)) as session:
            return resolve_spec(session, self.settings, self.catalogue, tenant_id, spec)

    def _request_inspection(
        self, tenant_id: str, resolved: ResolvedSpec, *, has_data: bool, may_start: bool = True
    ) -> str:
        """Return the id of an inspection that answers the same question; queue one if needed."""
        spec, queue = resolved.spec, kinds.INSPECT.queue(self.settings)
        conditions = same_inspections(tenant_id, resolved, queue, has_data=has_data)
        with transaction(self.engine) as session:
            known = session.scalar(
                select(Job.id).where(*conditions).order_by(Job.id.desc()).limit(1)
            )
            if known is not None:
                return known
            if not may_start:
                raise ForbiddenError(
                    "There is no such report yet, and this API key may only read.",
                    hint=f"Request the report with a key that has the scope {Scope.JOBS_WRITE}.",
                )
            job = transitions.insert_job(
                session,
                Job(
                    id=new_id("job"),
                    tenant_id=tenant_id,
                    kind=kinds.INSPECT.name,
                    queue=queue,
                    spec=spec.model_dump(mode="json", exclude_unset=True),
                    spec_sha256=spec_fingerprint(spec),
                    # If no worker has a GPU, any worker can reject the job immediately.
                    needs_gpu=has_data and spec.needs_gpu and has_gpu_worker(session, queue),
                    base_model=resolved.entry.id,
                    **(_data_columns(resolved.datasets) if has_data else {}),
                ),
            )
        self.tickets.issue(queue)
        return job.id

    def _cancel_if_queued(self, tenant_id: str, inspection: str) -> None:
        """Cancel an inspection that no worker claimed: it would keep its dataset undeletable."""
        with transaction(self.engine) as session:
            is_waiting = select(Job.id).where(Job.id == inspection, Job.status == JobStatus.QUEUED)
            if session.scalar(is_waiting) is not None:
                transitions.set_desired_state(session, tenant_id, inspection, DesiredState.CANCEL)

    def _read_reports(self, inspection: str) -> DataPreview:
        with reader(self.engine).connect() as connection:
            reports = connection.execute(
                select(JobReport.name, JobReport.document).where(JobReport.job_id == inspection)
            ).all()
            warnings = connection.execute(select(Job.warnings).where(Job.id == inspection))
            return DataPreview({r.name: r.document for r in reports}, warnings.scalar() or [])

    def _check_success(self, inspection: str) -> None:
        """Raise an error unless the inspection succeeded."""
        with reader(self.engine).connect() as connection:
            row = connection.execute(
                select(Job.status, Job.failure_code, Job.failure_detail).where(Job.id == inspection)
            ).one_or_none()
        if row is not None and row.status == JobStatus.SUCCEEDED:
            return
        if row is None or row.failure_code is None:
            raise _not_inspected()
        code, detail = FailureCode(row.failure_code), row.failure_detail or ""
        category, _, hint = code.failure
        # Infrastructure failures may be transient: do not reject the spec.
        is_about_spec = category in (FailureCategory.USER, FailureCategory.RESOURCE)
        if row.status != JobStatus.FAILED or not is_about_spec:
            raise _not_inspected(detail)
        loc = FIELDS.get(code, "/base_model")
        raise InvalidSpecError(
            f"A worker found: {detail}", hint=hint, problems=[FieldProblem(loc, code, detail, hint)]
        )


def _with_sample_warning(preview: DataPreview) -> DataPreview | None:
    """Return the reports with a warning if they are of a sample, otherwise None."""
    report = preview.reports.get("dataset", {})
    looked_at, in_all = report.get("rows_looked_at", 0), report.get("rows_in_all", 0)
    if looked_at >= in_all or "memory" not in preview.reports:
        return None
    note = {
        "code": WarningCode.REPORT_SAMPLED,
        "message": f"The reports are of a sample: {looked_at} of {in_all} training rows were "
        "looked at. The full report follows.",
    }
    return DataPreview(preview.reports, [*preview.warnings, note])


def _data_columns(datasets: JobDatasets) -> dict[str, Any]:
    return {
        "train_dataset_id": datasets.train.id,
        "eval_dataset_id": datasets.evaluation.id if datasets.evaluation else None,
        "eval_datasets": [
            JobEvalDataset(name=name, dataset_id=each.id) for name, each in datasets.named.items()
        ],
    }


def _not_inspected(why: str | None = None) -> UnavailableError:
    if why:
        return UnavailableError(
            f"A worker could not inspect the base model: {why}",
            hint="Try again later. The operator finds the cause in the worker's log.",
        )
    return UnavailableError(
        "No worker has finished the inspection in time.",
        hint="Try again; start a worker if none runs. A job can be submitted anyway: the worker "
        "that runs it checks the spec first.",
    )
