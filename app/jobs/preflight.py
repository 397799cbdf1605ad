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
from sqlalchemy.orm import Session

from app.base_models.catalogue import BaseModelEntry, Catalogue, UnknownBaseModelError
from app.base_models.facts import facts_for
from app.base_models.service import public_source
from app.broker import Tickets, preflight_queue
from app.database import new_id, reader, transaction
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.compiler import compile_plan
from app.domain.lifecycle import Desired, FailureCategory, FailureCode, JobKind, JobStatus
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.rules import SpecRejected
from app.domain.spec import RewardJobSpec
from app.errors import FieldProblem, InvalidSpecError
from app.jobs import repository
from app.jobs.watching import Watcher
from app.models import Dataset, Job, JobReport
from app.settings import Settings

#: The fields that failures of an inspection are about; the others are about the base model.
FIELDS = {
    FailureCode.DATASET_INVALID: "/train_dataset",
    FailureCode.PAIRS_OVERLONG: "/training/max_length",
    FailureCode.QUANTIZATION_UNAVAILABLE: "/quantization",
}


class Foresight(NamedTuple):
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

    async def plan(self, tenant_id: str, spec: RewardJobSpec) -> TrainingPlan | None:
        """The plan of a spec, or None when no worker looked at its base model in time.

        Raises:
            InvalidSpecError: names every field that stands in the way.
        """
        draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        if draft.facts is None:
            ask = partial(self._ask, tenant_id, draft, has_data=False)
            await self._outcome(await to_thread.run_sync(ask))
            draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        return _compile(draft, draft.facts) if draft.facts else None

    async def foresight(self, tenant_id: str, spec: RewardJobSpec) -> Foresight:
        """What a worker says about this spec's data and memory.

        Raises:
            InvalidSpecError: the worker found that it cannot be trained.
        """
        return await self._foresight(tenant_id, await self._inspect_data(tenant_id, spec))

    async def dataset_report(self, tenant_id: str, spec: RewardJobSpec) -> Any:
        """What is odd about the data, trainable or not; None if no worker had time.

        Raises:
            InvalidSpecError: the worker found a reason to look no further.
        """
        inspection = await self._inspect_data(tenant_id, spec)
        try:
            said = await self._foresight(tenant_id, inspection)
        except InvalidSpecError:
            said = await to_thread.run_sync(self._said, inspection)
            if "dataset" not in said.reports:
                raise
        return said.reports.get("dataset")

    async def _inspect_data(self, tenant_id: str, spec: RewardJobSpec) -> str:
        draft = await to_thread.run_sync(self._draft, tenant_id, spec)
        return await to_thread.run_sync(partial(self._ask, tenant_id, draft, has_data=True))

    async def _foresight(self, tenant_id: str, inspection: str) -> Foresight:
        if not await self._outcome(inspection):
            await to_thread.run_sync(self._forget, tenant_id, inspection)
            return Foresight({}, [])
        return await to_thread.run_sync(self._said, inspection)

    async def _outcome(self, inspection: str) -> bool:
        """Whether the inspection succeeded; waits for it a while."""
        await self.watcher.wait(
            inspection,
            lambda state: state.status not in repository.LIVE,
            self.settings.preflight_wait_seconds,
        )
        return await to_thread.run_sync(self._has_succeeded, inspection)

    def _draft(self, tenant_id: str, spec: RewardJobSpec) -> _Draft:
        with transaction(reader(self.engine)) as session:
            return _draft(session, self.settings, self.catalogue, tenant_id, spec)

    def _ask(self, tenant_id: str, draft: _Draft, *, has_data: bool) -> str:
        """The id of the inspection of this kind that there is, or of a fresh one."""
        spec, queue = draft.spec, preflight_queue(self.settings)
        wanted = [Job.kind == JobKind.PREFLIGHT, Job.queue == queue]
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
            job = repository.insert_job(
                session,
                Job(
                    id=new_id("job"),
                    tenant_id=tenant_id,
                    kind=JobKind.PREFLIGHT,
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
                repository.desire(session, tenant_id, inspection, Desired.CANCEL)

    def _said(self, inspection: str) -> Foresight:
        with reader(self.engine).connect() as connection:
            reports = connection.execute(
                select(JobReport.name, JobReport.document).where(JobReport.job_id == inspection)
            ).all()
            warnings = connection.execute(select(Job.warnings).where(Job.id == inspection))
            return Foresight({r.name: r.document for r in reports}, warnings.scalar() or [])

    def _has_succeeded(self, inspection: str) -> bool:
        """Refuses the spec if the inspection ended with a reason to."""
        with reader(self.engine).connect() as connection:
            row = connection.execute(
                select(Job.status, Job.failure_code, Job.failure_detail).where(Job.id == inspection)
            ).one_or_none()
        if row is None or row.status != JobStatus.FAILED:
            return row is not None and row.status == JobStatus.SUCCEEDED
        code = FailureCode(row.failure_code)
        category, _, hint = code.failure
        # What is nobody's fault here may be over when a worker takes the job.
        if category not in (FailureCategory.USER, FailureCategory.RESOURCE):
            return False
        loc = FIELDS.get(code, "/base_model")
        detail = row.failure_detail or ""
        raise InvalidSpecError(
            f"A worker found: {detail}", hint=hint, problems=[FieldProblem(loc, code, detail, hint)]
        )


@dataclass(frozen=True)
class _Draft:
    spec: RewardJobSpec
    entry: BaseModelEntry
    train: Dataset
    evaluation: Dataset | None
    facts: BaseModelFacts | None


def _print_of(spec: RewardJobSpec) -> str:
    """What a worker would say hangs on nothing but this: sha256 hex."""
    asked = spec.model_dump(mode="json", exclude={"name", "priority", "metadata"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _draft(
    session: Session,
    settings: Settings,
    catalogue: Catalogue,
    tenant_id: str,
    spec: RewardJobSpec,
) -> _Draft:
    problems: list[FieldProblem] = []
    limit = settings.quota_runtime_seconds
    if "max_runtime_seconds" in spec.resources.model_fields_set and (
        spec.resources.max_runtime_seconds > limit
    ):
        problems.append(
            FieldProblem(
                "/resources/max_runtime_seconds",
                "out_of_range",
                f"jobs may run for {limit} seconds here",
                "Ask for less, or leave it out.",
            )
        )
    entry = None
    try:
        entry = catalogue.get(spec.base_model)
    except UnknownBaseModelError as error:
        hint = error.hint or error.next_step
        problems.append(FieldProblem("/base_model", error.code, error.detail, hint))
    train = _dataset(session, tenant_id, spec.train_dataset, "/train_dataset", problems)
    evaluation = None
    if isinstance(spec.eval_dataset, str):
        evaluation = _dataset(session, tenant_id, spec.eval_dataset, "/eval_dataset", problems)
    if train and evaluation and train.summary["format"] != evaluation.summary["format"]:
        problems.append(
            FieldProblem(
                "/eval_dataset",
                "format_differs",
                f"it is {evaluation.summary['format']}, train_dataset is {train.summary['format']}",
                "Use text in both or conversations in both.",
            )
        )
    if problems or entry is None or train is None:
        raise _refusal(problems)
    return _Draft(spec, entry, train, evaluation, facts_for(session, entry))


def _dataset(
    session: Session, tenant_id: str, dataset_id: str, loc: str, problems: list[FieldProblem]
) -> Dataset | None:
    try:
        return datasets.get(session, tenant_id, dataset_id)
    except DatasetNotFoundError as error:
        problems.append(
            FieldProblem(loc, error.code, error.detail, "GET /v1/datasets lists those there are.")
        )
        return None


def _compile(draft: _Draft, facts: BaseModelFacts) -> TrainingPlan:
    try:
        return compile_plan(
            draft.spec,
            public_source(draft.entry),
            facts,
            _reference(draft.train),
            _reference(draft.evaluation) if draft.evaluation else None,
            draft.train.summary["format"],
        )
    except SpecRejected as error:
        raise _refusal(
            [FieldProblem(p.loc, p.code, p.message, p.hint) for p in error.problems]
        ) from error


def _refusal(problems: list[FieldProblem]) -> InvalidSpecError:
    first = problems[0]
    return InvalidSpecError(f"{first.loc}: {first.message}", hint=first.hint, problems=problems)


def _reference(dataset: Dataset) -> DatasetRef:
    return DatasetRef(id=dataset.id, sha256=dataset.sha256, pair_count=dataset.pair_count)
