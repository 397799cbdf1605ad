"""What a job did, over HTTP: events, metrics, logs, checkpoints; and the queue and the workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Request, Response
from sqlalchemy import Connection

from app.database import transaction
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.dependencies import JobsReaderDep, ReaderDep, SettingsDep
from app.domain.spec import DATASET_ID, BaseModelName, RewardJobSpec
from app.errors import InvalidSpecError, NotFoundError
from app.jobs import reading, service
from app.jobs.history_schemas import (
    CheckpointRead,
    DatasetReport,
    EventRead,
    JobReportRead,
    LogPiece,
    MetricsRead,
    QueueItem,
    WorkerRead,
)
from app.jobs.reading import JobRow
from app.jobs.router import JobId, WatcherDep, json_response
from app.jobs.schemas import is_over
from app.jobs.service import JobNotFoundError
from app.jobs.stream import event_stream
from app.jobs.submitting import PreflightDep
from app.problems import documented
from app.settings import Settings
from app.shapes import Page

router = APIRouter(prefix="/v1", tags=["jobs"])

_NOT_FOUND = documented(JobNotFoundError)
#: Workers sign in every five seconds.
WORKER_SEEN_MS = 30_000
_BIG = 2**63 - 1


class ReportNotFoundError(NotFoundError):
    """The run made no such report, or has not made it yet."""

    code = "report_not_found"
    title = "No such report"


@router.get(
    "/jobs/{job_id}/events",
    response_model=Page[EventRead],
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "Ascending. With `Accept: text/event-stream` a stream that ends with "
            "the job; `id:` is the event's number.",
        },
        204: {"description": "To a stream that resumes after the last event of a finished job."},
        **_NOT_FOUND,
    },
)
def list_events(
    request: Request,
    job_id: JobId,
    engine: ReaderDep,
    principal: JobsReaderDep,
    watcher: WatcherDep,
    after: Annotated[int, Query(ge=0, le=_BIG, description="Only later ones.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    accept: Annotated[str | None, Header()] = None,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}$")] = None,
) -> Response:
    """What happened, in order and without gaps."""
    with engine.connect() as connection:
        job = _job(connection, principal.tenant_id, job_id)
        if accept is None or "text/event-stream" not in accept.lower():
            rows = reading.events(connection, job_id, after, limit + 1)
            page = Page[EventRead].of(rows, limit, EventRead.of, lambda row: str(row.seq))
            return json_response(page.model_dump_json())
    seen = max(after, int(last_event_id or 0))
    if is_over(job.status) and job.event_seq <= seen:
        # The only answer that keeps a browser's EventSource from coming again.
        return Response(status_code=204)
    return event_stream(request, engine, watcher, principal.tenant_id, job_id, seen)


@router.get("/jobs/{job_id}/metrics", response_model=MetricsRead, responses=_NOT_FOUND)
def get_metrics(
    job_id: JobId,
    engine: ReaderDep,
    principal: JobsReaderDep,
    keys: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z0-9_/.,-]{1,2000}$",
            description="Names, separated by commas; all if left out.",
            examples=["train/loss,eval/accuracy"],
        ),
    ] = None,
    from_step: Annotated[int, Query(ge=0, le=_BIG)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=_BIG)] = None,
    resolution: Annotated[int, Query(ge=1, le=5000, description="Points at most.")] = 500,
) -> Response:
    """Metrics by column; more steps than ``resolution`` are averaged over equal stretches."""
    # The steps come along anyway: "step" names no metric.
    asked = dict.fromkeys(name for name in (keys or "").split(",") if name not in ("", "step"))
    names = list(asked)[:64]
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        columns = reading.metrics(connection, job_id, names, from_step, to_step, resolution)
    return json_response(MetricsRead(columns=columns).model_dump_json())


@router.get("/jobs/{job_id}/logs", responses=_NOT_FOUND)
def get_logs(
    job_id: JobId,
    engine: ReaderDep,
    principal: JobsReaderDep,
    tail: Annotated[int | None, Query(ge=1, le=1000, description="Only the last pieces.")] = None,
    after: Annotated[
        str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$", description="Only later pieces.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[LogPiece]:
    """The trainer's own output, oldest first."""
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        if tail is not None and after is None:
            rows = reading.last_logs(connection, job_id, tail)
            return Page[LogPiece].of(rows, tail, LogPiece.of, _log_id)
        attempt, _, seq = (after or "").partition("-")
        place = (int(attempt), int(seq)) if after else None
        rows = reading.logs(connection, job_id, place, limit + 1)
    return Page[LogPiece].of(rows, limit, LogPiece.of, _log_id)


@router.get("/jobs/{job_id}/checkpoints", responses=_NOT_FOUND)
def list_checkpoints(
    job_id: JobId, engine: ReaderDep, principal: JobsReaderDep
) -> Page[CheckpointRead]:
    """The checkpoints that are kept, newest first."""
    with engine.connect() as connection:
        job = _job(connection, principal.tenant_id, job_id)
        rows = reading.checkpoints(connection, job_id)
    data = [CheckpointRead.of(row, job.checkpoint_id) for row in rows]
    return Page[CheckpointRead](data=data, has_more=False, next=None)


MADE_WHEN = {
    "estimate": "It is made at the submit, and only if the base model was known by then.",
    "dataset": "It comes when the job's data are tokenised.",
    "memory": "It comes when the job's data are tokenised.",
    "worst_pairs": "It comes with the last evaluation, and only with an eval_dataset.",
}


@router.get(
    "/jobs/{job_id}/reports/{name}", responses=documented(JobNotFoundError, ReportNotFoundError)
)
def get_report(
    job_id: JobId,
    name: Annotated[
        Literal["estimate", "dataset", "memory", "worst_pairs"],
        Path(
            description="`estimate`: steps and seconds as of the submit; `dataset`: what the "
            "worker made of the data; `memory`: its estimate by part; `worst_pairs`: the most "
            "confidently wrong held-out pairs, by line."
        ),
    ],
    engine: ReaderDep,
    principal: JobsReaderDep,
) -> JobReportRead:
    """A document about the job: what was foreseen, and what the run found."""
    with engine.connect() as connection:
        _job(connection, principal.tenant_id, job_id)
        document = reading.report(connection, job_id, name)
    if document is None:
        raise ReportNotFoundError(
            f"{job_id} has no report {name}.",
            hint=MADE_WHEN[name],
        )
    return JobReportRead(job_id=job_id, name=name, document=document)


@router.get(
    "/datasets/{dataset_id}/report",
    tags=["datasets"],
    responses=documented(DatasetNotFoundError, InvalidSpecError),
)
async def get_dataset_report(
    dataset_id: Annotated[str, Path(pattern=DATASET_ID)],
    engine: ReaderDep,
    principal: JobsReaderDep,
    preflight: PreflightDep,
    base_model: Annotated[BaseModelName, Query(description="Whose tokenizer to count with.")],
    max_length: Annotated[
        int | None, Query(ge=8, le=1_048_576, description="Tokens; a job's default if left out.")
    ] = None,
) -> DatasetReport:
    """Lengths in tokens, duplicates, contradictions, overlong rows and more.

    A worker makes it once; then it is there at once.
    """

    def hold() -> None:
        with transaction(engine) as session:
            datasets.get(session, principal.tenant_id, dataset_id)

    await to_thread.run_sync(hold)
    training = {} if max_length is None else {"training": {"max_length": max_length}}
    spec = RewardJobSpec.model_validate(
        {"base_model": base_model, "train_dataset": dataset_id, **training}
    )
    report = await preflight.dataset_report(principal.tenant_id, spec)
    return DatasetReport(dataset_id=dataset_id, base_model=base_model, report=report)


@router.get("/queue")
def get_queue(
    engine: ReaderDep, settings: SettingsDep, principal: JobsReaderDep
) -> Page[QueueItem]:
    """This tenant's waiting jobs: their place, and why they wait."""
    with engine.connect() as connection:
        rows = reading.waiting(connection, principal.tenant_id, settings.queue, 1000)
        workers = reading.live_workers(connection, WORKER_SEEN_MS)
        running = reading.running_count(connection, principal.tenant_id)
    mine = [worker for worker in workers if worker.queue == settings.queue]
    free = sum(max(worker.slots - worker.busy, 0) for worker in mine)
    data = [_queue_item(row, settings, bool(mine), free, running) for row in rows]
    return Page[QueueItem](data=data, has_more=False, next=None)


@router.get("/workers")
def list_workers(engine: ReaderDep, principal: JobsReaderDep) -> Page[WorkerRead]:
    """Live workers, their devices, and what of this tenant they run."""
    with engine.connect() as connection:
        workers = reading.live_workers(connection, WORKER_SEEN_MS)
        running = reading.running_jobs(connection, principal.tenant_id)
    data = [WorkerRead.of(worker, _run_by(worker, running)) for worker in workers]
    return Page[WorkerRead](data=data, has_more=False, next=None)


def _queue_item(
    row: Any, settings: Settings, has_worker: bool, free: int, running: int
) -> QueueItem:
    if not has_worker:
        reason = "no_worker"
    elif running >= settings.quota_running:
        reason = "quota"
    elif row.is_backing_off:
        reason = "backoff"
    elif row.position <= free:
        reason = "next"
    else:
        reason = "workers_busy" if row.position == 1 else "behind_priority"
    return QueueItem(
        job_id=row.id,
        position=row.position,
        priority=row.priority,
        queued_at=row.created_at,
        reason=reason,
    )


def _run_by(worker: Any, running: Any) -> list[str]:
    # A worker is called host-place-pid and leases as host-place/slot:….
    station = worker.id.rpartition("-")[0]
    return [row.id for row in running if row.lease_owner.startswith(f"{station}/")]


def _job(connection: Connection, tenant_id: str, job_id: str) -> JobRow:
    job = reading.job(connection, tenant_id, job_id)
    if job is None:
        raise service.not_found(job_id)
    return job


def _log_id(row: Any) -> str:
    return f"{row.attempt}-{row.seq}"
