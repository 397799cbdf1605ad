"""Routes of /v1/adapters, including downloads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from sqlalchemy import Engine

from app.adapters import service
from app.adapters.archive import read_archive
from app.adapters.schemas import AdapterItem, AdapterRead
from app.adapters.service import AdapterNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.audit.log import Actor
from app.core.database import transaction
from app.core.errors import RangeError
from app.storage.blobs import StoredBlob, read_range
from app.web.dependencies import (
    EngineDep,
    PageQuery,
    ReadEngineDep,
    RequireArtifactsRead,
    RequireJobsWrite,
    SessionDep,
    page_of,
)
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.range_response import Content, content_response

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])

AdapterId = Annotated[str, Path(pattern=r"^ad_[0-9a-f]{32}$")]
FileName = Annotated[str, Path(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$")]
_NOT_FOUND = error_responses(AdapterNotFoundError)


def _download(media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The content; `ETag` contains its sha256.", "content": content},
        206: {"description": "The requested range of the content.", "content": content},
        304: {"description": "The content has the `ETag` that the client sent."},
        **error_responses(AdapterNotFoundError, RangeError),
    }


@router.get("")
def list_adapters(
    engine: ReadEngineDep,
    principal: RequireArtifactsRead,
    page: Annotated[PageQuery, Depends(page_of("ad"))],
    job_id: Annotated[str | None, Query(pattern=r"^job_[0-9a-f]{32}$")] = None,
) -> Page[AdapterItem]:
    """List adapters, newest first."""
    with transaction(engine) as session:
        rows = service.list_page(session, principal.tenant_id, page.limit, page.after, job_id)
    return Page[AdapterItem].of(rows, page.limit, AdapterItem.of, by_id)


@router.get("/{adapter_id}", responses=_NOT_FOUND)
def get_adapter(
    adapter_id: AdapterId, engine: ReadEngineDep, principal: RequireArtifactsRead
) -> AdapterRead:
    """Get an adapter with its files, metrics and parity certificate."""
    with transaction(engine) as session:
        adapter = service.get(session, principal.tenant_id, adapter_id)
        return AdapterRead.with_files(adapter, service.files(session, adapter))


@router.delete("/{adapter_id}", status_code=status.HTTP_204_NO_CONTENT, responses=_NOT_FOUND)
def delete_adapter(
    adapter_id: AdapterId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete an adapter. Its job is kept."""
    service.remove(session, principal.tenant_id, adapter_id)
    audit_log.record(session, actor, "adapter.delete", adapter_id)


def download_file(
    request: Request,
    adapter_id: AdapterId,
    name: FileName,
    engine: ReadEngineDep,
    writer: EngineDep,
    principal: RequireArtifactsRead,
    actor: ActorDep,
) -> Response:
    """Download a file of an adapter. Supports ETag, If-Range and a single Range."""
    with transaction(engine) as session:
        adapter = service.get(session, principal.tenant_id, adapter_id)
        file = service.file(session, adapter, name)
    content = Content(
        filename=file.name,
        media_type="application/octet-stream",
        sha256=file.sha256,
        size=file.size,
        read=lambda start, stop: read_range(engine, file.blob_id, start, stop),
    )
    return _recorded_response(request, content, writer, actor, adapter_id)


def download_archive(
    request: Request,
    adapter_id: AdapterId,
    engine: ReadEngineDep,
    writer: EngineDep,
    principal: RequireArtifactsRead,
    actor: ActorDep,
) -> Response:
    """Download all files as one deterministic tar archive.

    Supports ETag, If-Range and a single Range.
    """
    with transaction(engine) as session:
        adapter = service.get(session, principal.tenant_id, adapter_id)
        members = {
            file.name: StoredBlob(file.blob_id, file.sha256, file.size)
            for file in service.files(session, adapter)
        }
    content = Content(
        filename=f"{adapter.id}.tar",
        media_type="application/x-tar",
        sha256=adapter.archive_sha256,
        size=adapter.archive_bytes,
        read=lambda start, stop: read_archive(engine, members, start, stop),
    )
    return _recorded_response(request, content, writer, actor, adapter_id)


def _recorded_response(
    request: Request, content: Content, writer: Engine, actor: Actor, adapter_id: str
) -> Response:
    """Record the download in the audit log, and return the content."""
    response = content_response(request, content)
    if request.method == "GET" and response.status_code in (200, 206):
        with transaction(writer) as session:
            audit_log.record(session, actor, "adapter.download", adapter_id)
    return response


for _path, _endpoint, _media_type in (
    ("/{adapter_id}/files/{name}", download_file, "application/octet-stream"),
    ("/{adapter_id}/archive", download_archive, "application/x-tar"),
):
    for _method, _prefix in (("GET", ""), ("HEAD", "head_")):
        router.add_api_route(
            _path,
            _endpoint,
            methods=[_method],
            operation_id=_prefix + _endpoint.__name__,
            response_class=Response,
            responses=_download(_media_type),
        )
