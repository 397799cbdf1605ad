"""Routes of dataset reports."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query

from app.auth.key_ring import Scope
from app.core.database import transaction
from app.core.errors import InvalidSpecError
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.spec import DATASET_ID, BaseModelName, RewardJobSpec
from app.jobs.dependencies import PreflightDep
from app.reports.schemas import DatasetReport
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
        int | None, Query(ge=8, le=1_048_576, description="Tokens; default: that of a job.")
    ] = None,
) -> DatasetReport:
    """Get a report of token lengths, duplicates, contradictions, overlong pairs and more.

    The first request waits for a worker to make the report; later ones return it at once. Only a
    key with the scope `jobs:write` has a report made; other keys get reports that exist.
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
