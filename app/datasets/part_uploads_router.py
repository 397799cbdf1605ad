"""Routes of uploads in numbered parts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from pydantic import StringConstraints

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.errors import (
    QuotaError,
    RateLimitedError,
    UnavailableError,
)
from app.datasets import part_finishing, part_uploads
from app.datasets.announced import PART_TYPES, announced
from app.datasets.containers import FileFormat
from app.datasets.part_finishing import UploadIncompleteError
from app.datasets.part_schemas import UploadPartRead, UploadRead, UploadWithParts
from app.datasets.part_uploads import (
    MAX_PARTS,
    PartBody,
    UploadNotFoundError,
    UploadNotOpenError,
)
from app.datasets.query import QUERY_PARAMETERS, ReadOptionsDep
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.schemas import DatasetRead
from app.datasets.upload_places import UploadPlaces
from app.datasets.uploading import (
    NO_BOUND,
    STREAM_ERRORS,
    body_chunks,
    body_schema,
    check_announced_size,
)
from app.domain.training_spec import CleanText
from app.storage.free_space import StorageFullError
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

router = APIRouter(prefix="/v1/datasets/uploads", tags=["datasets"])

UploadId = Annotated[str, Path(pattern=r"^up_[0-9a-f]{32}$")]
PartNumber = Annotated[int, Path(ge=1, le=MAX_PARTS, description="Decides the order of rows.")]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))],
    openapi_extra={"parameters": QUERY_PARAMETERS},
    responses=error_responses(QuotaError),
)
def open_upload(
    response: Response,
    session: SessionDep,
    settings: SettingsDep,
    actor: ActorDep,
    options: ReadOptionsDep,
    name: Annotated[
        Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None,
        Query(description="Name for display."),
    ] = None,
) -> UploadRead:
    """Open an upload in parts, for large datasets and directories of shards.

    The parameters are those of an upload in one request, and apply to all parts. An upload expires
    a day after the last part was received.
    """
    upload = part_uploads.open_upload(session, settings, actor, name, options)
    response.headers["Location"] = f"/v1/datasets/uploads/{upload.id}"
    return UploadRead.of(upload)


@router.get("")
def list_uploads(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("up"))],
) -> Page[UploadRead]:
    """List the uploads in parts that have not expired, newest first."""
    with transaction(engine) as session:
        rows = part_uploads.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[UploadRead].of(rows, page.limit, UploadRead.of, by_id)


@router.get("/{upload_id}", responses=error_responses(UploadNotFoundError))
def get_upload(
    upload_id: UploadId, engine: ReadEngineDep, principal: RequireJobsRead
) -> UploadWithParts:
    """Get the state of an upload and the received parts with their hashes."""
    with transaction(engine) as session:
        state = part_uploads.get(session, principal.tenant_id, upload_id)
    return UploadWithParts.of_state(state)


@router.delete(
    "/{upload_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(UploadNotFoundError, UploadNotOpenError),
)
def delete_upload(
    upload_id: UploadId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete an upload and its parts. The dataset of a finished upload is kept."""
    part_uploads.remove(session, principal.tenant_id, upload_id)
    audit_log.record(session, actor, "upload.delete", upload_id)


@router.put(
    "/{upload_id}/parts/{number}",
    status_code=status.HTTP_201_CREATED,
    response_model=UploadPartRead,
    max_body_size=NO_BOUND,
    dependencies=[Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))],
    openapi_extra=body_schema(PART_TYPES),
    responses={
        200: {"model": UploadPartRead, "description": "The upload has this part already."},
        **error_responses(
            UploadNotFoundError, UploadNotOpenError, InvalidDatasetError, *STREAM_ERRORS
        ),
    },
)
async def put_upload_part(
    request: Request,
    upload_id: UploadId,
    number: PartNumber,
    engine: EngineDep,
    settings: SettingsDep,
    actor: ActorDep,
    format: Annotated[
        FileFormat | None, Query(description="Needed if the content type does not name the format.")
    ] = None,
) -> Response:
    """Send one part: a whole file in any format of an upload, which may be compressed.

    A part replaces an earlier one with the same number. The rows are checked when the upload is
    finished.
    """
    check_announced_size(request, settings)
    said = announced(request.headers.get("content-type", ""), "", format)
    body = PartBody(upload_id, number, said, body_chunks(request))
    places: UploadPlaces = request.app.state.upload_places
    part, is_new = await places.run(
        actor.tenant_id, lambda: part_uploads.store_part(engine, settings, actor, body)
    )
    return Response(
        UploadPartRead.of(part).model_dump_json(),
        status_code=status.HTTP_201_CREATED if is_new else status.HTTP_200_OK,
        media_type="application/json",
    )


@router.post(
    "/{upload_id}/finish",
    status_code=status.HTTP_201_CREATED,
    response_model=DatasetRead,
    dependencies=[Depends(RequireScopeAndKnownParameters(Scope.JOBS_WRITE))],
    responses={
        200: {"model": DatasetRead, "description": "The tenant has these pairs already."},
        **error_responses(
            UploadNotFoundError,
            UploadNotOpenError,
            UploadIncompleteError,
            InvalidDatasetError,
            QuotaError,
            RateLimitedError,
            StorageFullError,
            UnavailableError,
        ),
    },
)
async def finish_upload(
    request: Request,
    upload_id: UploadId,
    engine: EngineDep,
    settings: SettingsDep,
    actor: ActorDep,
    parts: Annotated[
        int | None,
        Query(ge=1, le=MAX_PARTS, description="Number of parts, to detect a missing one."),
    ] = None,
) -> Response:
    """Check the parts, and convert them in the order of their numbers to one dataset.

    If the pairs are rejected, the upload stays open: replace the wrong parts and repeat this
    request. A repeated request returns the same dataset.
    """
    places: UploadPlaces = request.app.state.upload_places
    dataset, is_new = await places.run(
        actor.tenant_id,
        lambda: part_finishing.finish(engine, settings, actor, upload_id, parts),
    )
    return Response(
        DatasetRead.of(dataset).model_dump_json(),
        status_code=status.HTTP_201_CREATED if is_new else status.HTTP_200_OK,
        media_type="application/json",
        headers={"Location": f"/v1/datasets/{dataset.id}"},
    )
