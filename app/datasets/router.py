"""Routes of datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from pydantic import StringConstraints

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.errors import RangeError
from app.datasets import service
from app.datasets.announced import UPLOAD_TYPES, announced
from app.datasets.containers import FileFormat
from app.datasets.query import QUERY_PARAMETERS, ReadOptionsDep
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.schemas import DatasetPreview, DatasetRead
from app.datasets.service import DatasetInUseError, DatasetNotFoundError, Upload
from app.datasets.upload_places import UploadPlaces
from app.datasets.uploading import (
    NO_BOUND,
    STREAM_ERRORS,
    BadMultipartError,
    SinglePart,
    body_chunks,
    body_schema,
    check_announced_size,
)
from app.domain.spec import DATASET_ID
from app.domain.training_spec import CleanText
from app.models import Dataset
from app.storage.blobs import read_range
from app.web.dependencies import (
    EngineDep,
    PageQuery,
    ReadEngineDep,
    RequireJobsRead,
    RequireJobsWrite,
    RequireScopeAndKnownParameters,
    SessionDep,
    SettingsDep,
    page_of,
)
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.range_response import Content, content_response

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

DatasetId = Annotated[str, Path(pattern=DATASET_ID)]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=DatasetRead,
    max_body_size=NO_BOUND,
    dependencies=[Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))],
    openapi_extra={"parameters": QUERY_PARAMETERS, **body_schema(UPLOAD_TYPES)},
    responses={
        200: {"model": DatasetRead, "description": "The tenant has this file already."},
        **error_responses(InvalidDatasetError, BadMultipartError, *STREAM_ERRORS),
    },
)
async def create_dataset(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    actor: ActorDep,
    options: ReadOptionsDep,
    name: Annotated[
        Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None,
        Query(description="Name for display."),
    ] = None,
    format: Annotated[
        FileFormat | None, Query(description="Needed if the content type does not name the format.")
    ] = None,
) -> Response:
    """Upload preference data as JSONL, JSON, CSV, TSV, Parquet or Arrow, which may be compressed.

    The shape of the rows is recognised, or described by `columns[…]`; see docs/data.md. The file is
    checked while it streams. A file with bad lines is rejected; the error names the first ten.
    """
    check_announced_size(request, settings)

    def store() -> tuple[Dataset, bool]:
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/"):
            said = announced(content_type, "", format)
            upload = Upload(name, said, body_chunks(request), options)
            return service.store(engine, settings, actor, upload)
        part = SinglePart(content_type, body_chunks(request))
        said = announced(part.content_type, part.filename, format)
        upload = Upload(name, said, part, options)
        return service.store(engine, settings, actor, upload)

    places: UploadPlaces = request.app.state.upload_places
    dataset, is_new = await places.run(actor.tenant_id, store)
    return Response(
        DatasetRead.of(dataset).model_dump_json(),
        status_code=status.HTTP_201_CREATED if is_new else status.HTTP_200_OK,
        media_type="application/json",
        headers={"Location": f"/v1/datasets/{dataset.id}"},
    )


@router.get("")
def list_datasets(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("ds"))],
) -> Page[DatasetRead]:
    """List datasets, newest first."""
    with transaction(engine) as session:
        rows = service.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[DatasetRead].of(rows, page.limit, DatasetRead.of, by_id)


@router.get("/{dataset_id}", responses=error_responses(DatasetNotFoundError))
def get_dataset(
    dataset_id: DatasetId, engine: ReadEngineDep, principal: RequireJobsRead
) -> DatasetRead:
    """Get a dataset: its format, counts, slices and warnings."""
    with transaction(engine) as session:
        return DatasetRead.of(service.get(session, principal.tenant_id, dataset_id))


@router.delete(
    "/{dataset_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(DatasetNotFoundError, DatasetInUseError),
)
def delete_dataset(
    dataset_id: DatasetId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete a dataset that no unfinished job uses."""
    service.remove(session, principal.tenant_id, dataset_id)
    audit_log.record(session, actor, "dataset.delete", dataset_id)


@router.get("/{dataset_id}/preview", responses=error_responses(DatasetNotFoundError))
def preview_dataset(
    dataset_id: DatasetId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    n: Annotated[int, Query(ge=1, le=100, description="Rows.")] = 5,
) -> DatasetPreview:
    """Get the first rows as they are stored."""
    with transaction(engine) as session:
        dataset = service.get(session, principal.tenant_id, dataset_id)
    return DatasetPreview(data=service.preview(engine, dataset, n))


@router.get(
    "/{dataset_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"application/x-ndjson": {}}, "description": "The canonical JSONL."},
        206: {"description": "The requested range."},
        304: {"description": "The client has the current version."},
        **error_responses(DatasetNotFoundError, RangeError),
    },
)
def download_dataset(
    request: Request, dataset_id: DatasetId, engine: ReadEngineDep, principal: RequireJobsRead
) -> Response:
    """Download the canonical JSONL. A single Range, ETag and If-Range are supported."""
    with transaction(engine) as session:
        dataset = service.get(session, principal.tenant_id, dataset_id)
    content = Content(
        filename=f"{dataset.id}.jsonl",
        media_type="application/x-ndjson",
        sha256=dataset.sha256,
        size=dataset.bytes,
        read=lambda start, stop: read_range(engine, dataset.blob_id, start, stop),
    )
    return content_response(request, content)
