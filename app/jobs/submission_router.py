"""Routes that submit: new jobs, dry runs and clones."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Response, status
from pydantic import ValidationError
from sqlalchemy import Engine

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import reader, transaction
from app.core.errors import InvalidSpecError, QuotaError, UnavailableError
from app.domain.plan import TrainingPlan
from app.domain.spec import RewardJobSpec
from app.job_queue.idempotency import REPLAYED, IdempotencyKey, KeyReusedError
from app.jobs import cloning, service
from app.jobs.dependencies import PreflightDep
from app.jobs.errors import JobNotFoundError, JobStateError
from app.jobs.estimates import estimate
from app.jobs.preflight import DataPreview
from app.jobs.responses import JobId, job_response, json_response
from app.jobs.schemas import JobClone, JobEstimate, JobPreview, JobRead
from app.jobs.service import Submission
from app.models import Job
from app.web.dependencies import EngineDep, RequireJobsWrite, SettingsDep, TicketsDep
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute
from app.web.validation_errors import field_problems

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=JobRead | JobPreview,
    responses={
        200: {"model": JobPreview, "description": "The result of a dry run; nothing was stored."},
        201: {"model": JobRead, "description": "The job was queued."},
        **error_responses(InvalidSpecError, KeyReusedError, QuotaError, UnavailableError),
    },
)
async def create_job(
    body: RewardJobSpec,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    preflight: PreflightDep,
    dry_run: Annotated[bool, Query(description="Return the plan without queueing a job.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a reward-model training job."""
    if dry_run:
        plan = await preflight.plan(principal.tenant_id, body)
        data = await preflight.preview_data(principal.tenant_id, body)
        size = await to_thread.run_sync(_estimate, engine, plan, data.reports.get("dataset"))
        return _preview(body, plan, size, data)

    def replay() -> Job | None:
        with transaction(engine) as session:
            submission = Submission(body, None, idempotency_key)
            return service.find_replay(session, principal.tenant_id, submission)

    if idempotency_key and (known := await to_thread.run_sync(replay)):
        return _created(known, is_replay=True)
    known_plan = await preflight.plan_in_time(principal.tenant_id, body)

    def submit() -> tuple[Job, bool]:
        with transaction(engine) as session:
            submission = Submission(body, known_plan, idempotency_key)
            job, is_replay = service.submit(session, settings, principal.tenant_id, submission)
            if not is_replay:
                audit_log.record(session, actor, "job.submit", job.id)
            return job, is_replay

    job, is_replay = await to_thread.run_sync(submit)
    tickets.issue(job.queue)
    return _created(job, is_replay=is_replay)


@router.post(
    "/{job_id}/clone",
    status_code=status.HTTP_201_CREATED,
    response_model=JobRead,
    responses=error_responses(
        JobNotFoundError, JobStateError, InvalidSpecError, KeyReusedError, QuotaError
    ),
)
async def clone_job(
    job_id: JobId,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    preflight: PreflightDep,
    body: JobClone | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a new job with this job's spec and optional overrides."""
    clone = body or JobClone()
    tenant_id = principal.tenant_id

    def read() -> tuple[RewardJobSpec, Job | None]:
        with transaction(engine) as session:
            parent = service.get(session, tenant_id, job_id)
            spec = _spec(cloning.clone_spec(parent, clone.overrides))
            submission = Submission(spec, None, idempotency_key, parent, clone.from_checkpoint)
            # Look for it before the checks: the parent's checkpoint may be deleted by now.
            if known := service.find_replay(session, tenant_id, submission):
                return spec, known
            if clone.from_checkpoint:
                cloning.check_checkpoint(parent, clone.overrides)
                cloning.check_length(session, parent, spec)
        return spec, None

    spec, known = await to_thread.run_sync(read)
    if known is not None:
        return _created(known, is_replay=True)
    plan = await preflight.plan_in_time(tenant_id, spec)

    def submit() -> tuple[Job, bool]:
        with transaction(engine) as session:
            parent = service.get(session, tenant_id, job_id)
            submission = Submission(spec, plan, idempotency_key, parent, clone.from_checkpoint)
            job, is_replay = service.submit(session, settings, tenant_id, submission)
            if not is_replay:
                audit_log.record(session, actor, "job.submit", job.id)
            return job, is_replay

    job, is_replay = await to_thread.run_sync(submit)
    tickets.issue(job.queue)
    return _created(job, is_replay=is_replay)


def _estimate(engine: Engine, plan: TrainingPlan, report: dict[str, Any] | None) -> JobEstimate:
    with reader(engine).connect() as connection:
        return estimate(connection, plan, report)


def _preview(
    spec: RewardJobSpec, plan: TrainingPlan, size: JobEstimate, data: DataPreview
) -> Response:
    about_data = plan.data_warnings()
    preview = JobPreview(
        spec=spec,
        plan=plan.model_dump(mode="json"),
        adapter_config=plan.lora_kwargs(),
        **size.model_dump(),
        reports=data.reports,
        warnings=[*about_data, *(each for each in data.warnings if each not in about_data)],
    )
    return json_response(preview.model_dump_json())


def _spec(document: dict[str, object]) -> RewardJobSpec:
    try:
        return RewardJobSpec.model_validate(document)
    except ValidationError as error:
        errors = [{**e, "loc": ("body", *e["loc"])} for e in error.errors()]
        raise InvalidSpecError(
            "The spec is not valid with these overrides.",
            problems=field_problems(errors, document, RewardJobSpec),
        ) from error


def _created(job: Job, *, is_replay: bool) -> Response:
    response = job_response(job)
    response.status_code = status.HTTP_201_CREATED
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if is_replay:
        response.headers[REPLAYED] = "true"
    return response
