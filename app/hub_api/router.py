"""Serve adapters as repositories of a model hub, for ``huggingface_hub`` and its users::

    snapshot_download("ad_…", endpoint=URL + "/hub", token=KEY)

The routes only read. They follow the Hub's API, not the conventions of /v1: unknown query
parameters are ignored, and a 404 has the headers that the Hub's client reads. docs/openapi.json
does not contain them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic_core import to_json

from app.adapters.service import AdapterNotFoundError
from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.key_ring import Principal
from app.auth.require_scope import RequireScope
from app.auth.scopes import Scope
from app.base_models.dependencies import CatalogueDep
from app.core.database import transaction
from app.core.errors import NotFoundError
from app.hub_api import documents
from app.hub_api.base_models import BaseModels, elsewhere
from app.hub_api.repositories import (
    BRANCH,
    EntryNotFoundError,
    RepoFile,
    Repository,
    RevisionNotFoundError,
    adapter_repository,
)
from app.web.dependencies import EngineDep, ReadEngineDep, SettingsDep
from app.web.problem_details import problem_response
from app.web.range_response import Content, content_response

router = APIRouter(prefix="/hub", include_in_schema=False)

_ADAPTER_ID = re.compile(r"ad_[0-9a-f]{32}")
_WORDS = ("resolve", "revision", "tree", "refs", "paths-info")
_ERROR_CODES = {EntryNotFoundError: "EntryNotFound", RevisionNotFoundError: "RevisionNotFound"}


async def get_finder(
    principal: Annotated[Principal, Depends(RequireScope(Scope.ARTIFACTS_READ))],
    engine: ReadEngineDep,
    catalogue: CatalogueDep,
    settings: SettingsDep,
) -> Callable[[str], Repository]:
    """Return a function that returns a repository by name, if the tenant may read it."""

    def find(name: str) -> Repository:
        if name.startswith("ad_"):
            if not _ADAPTER_ID.fullmatch(name):  # PostgreSQL refuses some characters
                raise AdapterNotFoundError(f"There is no adapter {name[:200]!r}.")
            return adapter_repository(engine, principal.tenant_id, name)
        return BaseModels(engine, catalogue, settings).repository(name)

    return find


FinderDep = Annotated[Callable[[str], Repository], Depends(get_finder)]


@router.get("/api/models/{repo:path}")
def get_model(request: Request, repo: str, find: FinderDep) -> Response:
    """Return the model info, the file list or the revisions of a repository."""
    name, what, rest = _parts(repo)
    revision, _, folder = rest.partition("/")
    answers: dict[str, Callable[[Repository], Any]] = {
        "": documents.model_info,
        "revision": documents.model_info,
        "tree": lambda repository: documents.tree(repository, folder),
        "refs": documents.refs,
    }
    try:
        if what not in answers:
            raise elsewhere(repo, "this address does not exist")
        document = answers[what](find(name).at(revision or BRANCH))
    except NotFoundError as error:
        return _refusal(request, error)
    return Response(to_json(document), media_type="application/json")


@router.post("/api/models/{repo:path}")
def get_paths_info(
    request: Request,
    repo: str,
    find: FinderDep,
    paths: Annotated[list[str], Form()],
) -> Response:
    """Return the sizes and hashes of those of the files that the repository has.

    The framework limits a form to 1000 fields, about as many as the Hub accepts.
    """
    name, what, revision = _parts(repo)
    try:
        if what != "paths-info":
            raise elsewhere(repo, "this address does not exist")
        document = documents.paths_info(find(name).at(revision), paths)
    except NotFoundError as error:
        return _refusal(request, error)
    return Response(to_json(document), media_type="application/json")


@router.head("/{repo:path}")
@router.get("/{repo:path}")
def resolve_file(
    request: Request, repo: str, find: FinderDep, writer: EngineDep, actor: ActorDep
) -> Response:
    """Download a file at ``{id}/resolve/{revision}/{name}``. Supports ETag and a single Range."""
    name, what, rest = _parts(repo)
    revision, _, file_name = rest.partition("/")
    try:
        if what != "resolve":
            raise elsewhere(repo, "this address does not exist")
        repository = find(name).at(revision)
        file = repository.file(file_name)
    except NotFoundError as error:
        return _refusal(request, error)
    response = _file_response(request, file)
    response.headers["X-Repo-Commit"] = repository.commit
    response.headers["X-Linked-Etag"] = f'"{file.sha256 or file.blob_id}"'
    response.headers["X-Linked-Size"] = str(file.size)
    is_read = request.method == "GET" and response.status_code in (200, 206)
    if is_read and name.startswith("ad_"):
        with transaction(writer) as session:
            audit_log.record(session, actor, "adapter.download", name)
    return response


def _parts(repo: str) -> tuple[str, str, str]:
    """Split a path into the repository's name, ``name`` or ``org/name``, a verb and the rest."""
    first, _, rest = repo.partition("/")
    second, _, after = rest.partition("/")
    if not second or second in _WORDS:
        return first, second, after
    what, _, after = after.partition("/")
    return f"{first}/{second}", what, after


def _file_response(request: Request, file: RepoFile) -> Response:
    if file.location is not None and request.method == "GET":
        return Response(status_code=307, headers={"Location": file.location})
    content = Content(
        filename=file.name,
        media_type="application/octet-stream",
        sha256=file.sha256,
        size=file.size,
        read=file.read or (lambda _start, _stop: iter(())),
        version=file.blob_id,
    )
    return content_response(request, content)


def _refusal(request: Request, error: NotFoundError) -> Response:
    """Return a 404 response that the Hub's client converts into its own exceptions."""
    headers = {
        "X-Error-Code": _ERROR_CODES.get(type(error), "RepoNotFound"),
        # A line break would end the header, and begin another that the client chose.
        "X-Error-Message": re.sub(r"[^\x20-\x7e]", "?", error.detail),
    }
    if isinstance(error, EntryNotFoundError):
        headers["X-Repo-Commit"] = error.commit
    return problem_response(request, error, headers=headers)
