"""Routes of a job's history: events, metrics, logs, checkpoints and reports."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy import Connection

from app.job_queue import queries
from app.job_queue.dependencies import WatcherDep
from app.job_queue.queries import JobRow
from app.jobs import queries as job_queries
from app.jobs.errors import JobNotFoundError, ReportNotFoundError, job_not_found
from app.jobs.event_stream import EVENT_ANSWERS, EventQuery, events_response
from app.jobs.history_schemas import CheckpointRead, EventRead, JobReportRead, LogPiece, MetricsRead
from app.jobs.responses import JobId, json_response
from app.web.dependencies import ReadEngineDep, RequireJobsRead
from app.web.pagination import Page
from app.web.problem_details import error_responses

router = APIRouter(prefix="/v1", tags=["jobs"])

_NOT_FOUND = error_responses(JobNotFoundError)

MAX_KEYS = 64
_MAX_INT = 2**63 - 1


@router.get(
    "/jobs/{job_id}/events",
    response_model=Page[EventRead],
    responses={**EVENT_ANSWERS, **_NOT_FOUND},
)
def list_events(
    request: Request,
    job_id: JobId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    query: Annotated[EventQuery, Depends()],
) -> Response:
    """List the events of a job, in order and without gaps."""

    def find(connection: Connection) -> JobRow:
        return _job(connection, principal.tenant_id, job_id)

    return events_response(request, engine, watcher, find, query)


@router.get("/jobs/{job_id}/metrics", response_model=MetricsRead, responses=_NOT_FOUND)
def get_metrics(
    job_id: JobId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    keys: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z0-9_/.,-]{1,2000}$",
            description="Names, separated by commas; default: all.",
            examples=["train/loss,eval/accuracy"],
        ),
    ] = None,
    from_step: Annotated[int, Query(ge=0, le=_MAX_INT)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=_MAX_INT)] = None,
    resolution: Annotated[int, Query(ge=1, le=5000, description="Maximum number of points.")] = 500,
) -> Response:
    """Get metrics by column; more steps than ``resolution`` are averaged over equal intervals."""
    # The steps are always included: "step" names no metric.
    wanted = dict.fromkeys(name for name in (keys or "").split(",") if name not in ("", "step"))
    names = list(wanted)[:MAX_KEYS]
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        columns = queries.metrics(connection, job_id, names, from_step, to_step, resolution)
    return json_response(MetricsRead(columns=columns).model_dump_json())


@router.get("/jobs/{job_id}/logs", responses=_NOT_FOUND)
def get_logs(
    job_id: JobId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    tail: Annotated[
        int | None, Query(ge=1, le=1000, description="Only this number of the last pieces.")
    ] = None,
    after: Annotated[
        str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$", description="Only pieces after this id.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[LogPiece]:
    """Get the trainer's output, oldest first."""
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        if tail is not None and after is None:
            rows = queries.last_logs(connection, job_id, tail)
            return Page[LogPiece].of(rows, tail, LogPiece.of, _log_id)
        attempt, _, seq = (after or "").partition("-")
        place = (int(attempt), int(seq)) if after else None
        rows = queries.logs(connection, job_id, place, limit + 1)
    return Page[LogPiece].of(rows, limit, LogPiece.of, _log_id)


@router.get("/jobs/{job_id}/checkpoints", responses=_NOT_FOUND)
def list_checkpoints(
    job_id: JobId, engine: ReadEngineDep, principal: RequireJobsRead
) -> Page[CheckpointRead]:
    """List the stored checkpoints of a job, newest first."""
    with engine.connect() as connection:
        job = _job(connection, principal.tenant_id, job_id)
        rows = queries.checkpoints(connection, job_id)
    data = [CheckpointRead.of(row, job.checkpoint_id) for row in rows]
    return Page[CheckpointRead](data=data, has_more=False, next=None)


#: When each report is made; the hint of a request that comes too early.
MADE_WHEN = {
    "estimate": "It is made at submission, if the base model has been inspected by then.",
    "dataset": "It is made when the job tokenises its data.",
    "memory": "It is made when the job tokenises its data.",
    "worst_pairs": "It is made by the last evaluation, if the job has an eval_dataset.",
}


@router.get(
    "/jobs/{job_id}/reports/{name}",
    responses=error_responses(JobNotFoundError, ReportNotFoundError),
)
def get_report(
    job_id: JobId,
    name: Annotated[
        Literal["estimate", "dataset", "memory", "worst_pairs"],
        Path(
            description="`estimate`: steps and seconds, estimated at submission; `dataset`: the "
            "report on the data; `memory`: the estimated memory by part; `worst_pairs`: the "
            "held-out pairs with the most negative margins, by line."
        ),
    ],
    engine: ReadEngineDep,
    principal: RequireJobsRead,
) -> JobReportRead:
    """Get a report of a job: an estimate, or what the run found."""
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        document = queries.report(connection, job_id, name)
    if document is None:
        raise ReportNotFoundError(
            f"{job_id} has no report {name}.",
            hint=MADE_WHEN[name],
        )
    return JobReportRead(job_id=job_id, name=name, document=document)


def _job(connection: Connection, tenant_id: str, job_id: str) -> JobRow:
    job = job_queries.job(connection, tenant_id, job_id)
    if job is None:
        raise job_not_found(job_id)
    return job


def _log_id(row: Any) -> str:
    return f"{row.attempt}-{row.seq}"
