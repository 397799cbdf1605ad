"""Routes of dataset reports and of the report pages of jobs."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import Engine

from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.errors import InvalidSpecError
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.spec import DATASET_ID, BaseModelName, RewardJobSpec
from app.jobs import service as jobs
from app.jobs.dependencies import PreflightDep
from app.jobs.errors import JobNotFoundError, ReportNotFoundError
from app.jobs.responses import JobId
from app.reports.full_report import job_document, job_page
from app.reports.page import HTML_ANSWER, html_response
from app.reports.schemas import DatasetReport, FullReport
from app.web.dependencies import ReadEngineDep, RequireJobsRead
from app.web.problem_details import error_responses

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.get(
    "/datasets/{dataset_id}/report",
    tags=["datasets"],
    responses=error_responses(DatasetNotFoundError, InvalidSpecError),
)
async def get_dataset_report(
    dataset_id: Annotated[str, Path(pattern=DATASET_ID)],
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    preflight: PreflightDep,
    base_model: Annotated[
        BaseModelName, Query(description="The base model whose tokenizer is used.")
    ],
    max_length: Annotated[
        int | None, Query(ge=8, le=1_048_576, description="Tokens. Default: as for a job.")
    ] = None,
) -> DatasetReport:
    """Get a report of token lengths, duplicates, contradictions, overlong pairs and more.

    The first request waits until a worker has created the report; later requests return it at once.
    Only keys with the scope `jobs:write` can start a report; other keys can read existing reports.
    """

    def check_dataset() -> None:
        with transaction(engine) as session:
            datasets.get(session, principal.tenant_id, dataset_id)

    await to_thread.run_sync(check_dataset)
    training = {} if max_length is None else {"training": {"max_length": max_length}}
    spec = RewardJobSpec.model_validate(
        {"base_model": base_model, "train_dataset": dataset_id, **training}
    )
    may_start = principal.may(Scope.JOBS_WRITE)
    report = await preflight.dataset_report(principal.tenant_id, spec, may_start=may_start)
    return DatasetReport(dataset_id=dataset_id, base_model=base_model, report=report)


@router.get(
    "/jobs/{job_id}/reports/full.html",
    response_class=Response,
    responses={200: HTML_ANSWER, **error_responses(JobNotFoundError, ReportNotFoundError)},
)
def get_report_page(job_id: JobId, engine: ReadEngineDep, principal: RequireJobsRead) -> Response:
    """Get the report of a job as one self-contained HTML page."""
    document = _job_document(engine, principal.tenant_id, job_id)
    return html_response(job_page(document), f"{job_id}.html")


@router.get(
    "/jobs/{job_id}/reports/full.json",
    responses=error_responses(JobNotFoundError, ReportNotFoundError),
)
def get_report_document(
    job_id: JobId, engine: ReadEngineDep, principal: RequireJobsRead
) -> FullReport:
    """Get the content of the report page of a job as JSON."""
    return FullReport.model_validate(_job_document(engine, principal.tenant_id, job_id))


def _job_document(engine: Engine, tenant_id: str, job_id: str) -> dict[str, Any]:
    with transaction(engine) as session:
        document = job_document(session, jobs.get(session, tenant_id, job_id))
    if document is None:
        raise ReportNotFoundError(
            f"{job_id} has no report page.", hint="It is created at the end of training."
        )
    return document
