"""Adapters as repositories of a model hub, for ``huggingface_hub`` and what is built on it::

    snapshot_download("ad_…", endpoint=URL + "/hub", token=KEY)

Reads only. The routes follow the Hub's API and not the conventions of /v1: unknown query parameters
are ignored, and a 404 has the headers that the Hub's client reads. docs/openapi.json leaves them
out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from app.adapters import service
from app.adapters.service import AdapterNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.key_ring import Principal, Scope
from app.auth.require_scope import RequireScope
from app.core.database import transaction
from app.core.errors import NotFoundError
from app.hub_api import documents
from app.models import Adapter, StoredFile
from app.storage.blobs import read_range
from app.web.dependencies import EngineDep, ReadEngineDep
from app.web.problem_details import problem_response
from app.web.range_response import Content, content_response

router = APIRouter(prefix="/hub", include_in_schema=False)

RequireArtifacts = Annotated[Principal, Depends(RequireScope(Scope.ARTIFACTS_READ))]
Found = Callable[[Adapter, list[StoredFile]], Response]


class BaseModelElsewhereError(NotFoundError):
    """The hub routes serve adapters only; base models are on the hub that they come from."""

    code = "base_model_elsewhere"
    title = "Not an adapter"
    next_step = "Load the base model from its own hub or a directory, and the adapter from here."


class RevisionNotFoundError(NotFoundError):
    """An adapter has one revision: `main`, and its commit."""

    code = "revision_not_found"
    title = "No such revision"
    next_step = "Use the revision `main`."


@router.get("/api/models/{repo:path}")
def get_model(
    request: Request, repo: str, engine: ReadEngineDep, principal: RequireArtifacts
) -> Response:
    """Model info, a listing of the files, or the revisions."""
    adapter_id, _, rest = repo.partition("/")
    what, _, revision = rest.partition("/")
    answers: dict[str, Callable[[Adapter, list[StoredFile]], Any]] = {
        "": documents.model_info,
        "revision": documents.model_info,
        "tree": lambda _adapter, files: documents.tree(files),
        "refs": lambda adapter, _files: documents.refs(adapter),
    }
    if what not in answers:
        return _refusal(request, _elsewhere(repo))
    revision = revision.partition("/")[0]
    found = _find(request, engine, principal, adapter_id, revision or documents.BRANCH)
    if isinstance(found, Response):
        return found
    return Response(to_json(answers[what](*found)), media_type="application/json")


@router.head("/{repo:path}")
@router.get("/{repo:path}")
def resolve_file(
    request: Request,
    repo: str,
    engine: ReadEngineDep,
    writer: EngineDep,
    principal: RequireArtifacts,
    actor: ActorDep,
) -> Response:
    """A file: ``{adapter_id}/resolve/{revision}/{name}``, with ETag, commit and Range."""
    adapter_id, _, rest = repo.partition("/")
    what, _, rest = rest.partition("/")
    revision, _, name = rest.partition("/")
    if what != "resolve":
        return _refusal(request, _elsewhere(repo))
    found = _find(request, engine, principal, adapter_id, revision)
    if isinstance(found, Response):
        return found
    adapter, files = found
    file = next((file for file in files if file.name == name), None)
    if file is None:
        error = AdapterNotFoundError(f"The adapter {adapter_id} has no file of this name.")
        return _refusal(request, error, "EntryNotFound", documents.commit_of(adapter))
    response = content_response(request, _content(engine, file))
    response.headers["X-Repo-Commit"] = documents.commit_of(adapter)
    response.headers["X-Linked-Etag"] = f'"{file.sha256}"'
    response.headers["X-Linked-Size"] = str(file.size)
    if request.method == "GET" and response.status_code in (200, 206):
        with transaction(writer) as session:
            audit_log.record(session, actor, "adapter.download", adapter_id)
    return response


def _find(
    request: Request, engine: Any, principal: Principal, adapter_id: str, revision: str
) -> tuple[Adapter, list[StoredFile]] | Response:
    """An adapter of the tenant with its files, or what to answer instead."""
    if not adapter_id.startswith("ad_"):
        return _refusal(request, _elsewhere(adapter_id))
    try:
        with transaction(engine) as session:
            adapter = service.get(session, principal.tenant_id, adapter_id)
            files = service.files(session, adapter)
    except AdapterNotFoundError as error:
        return _refusal(request, error)
    if revision not in (documents.BRANCH, documents.commit_of(adapter)):
        unknown = RevisionNotFoundError(f"The adapter {adapter_id} has no such revision.")
        return _refusal(request, unknown, "RevisionNotFound")
    return adapter, files


def _content(engine: Any, file: StoredFile) -> Content:
    return Content(
        filename=file.name,
        media_type="application/octet-stream",
        sha256=file.sha256,
        size=file.size,
        read=lambda start, stop: read_range(engine, file.blob_id, start, stop),
    )


def _elsewhere(repo: str) -> BaseModelElsewhereError:
    return BaseModelElsewhereError(
        f"{repo[:200]!r} is no adapter (ad_…).", hint=BaseModelElsewhereError.next_step
    )


def _refusal(
    request: Request, error: NotFoundError, code: str = "RepoNotFound", commit: str | None = None
) -> Response:
    """A 404 that the Hub's client turns into its own exceptions."""
    headers = {"X-Error-Code": code, "X-Error-Message": error.detail.encode("ascii", "replace")
               .decode()}  # fmt: skip
    if commit is not None:
        headers["X-Repo-Commit"] = commit
    return problem_response(request, error, headers=headers)
