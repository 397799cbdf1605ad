"""Routes of the dashboard: static pages and scripts that load their data through the public API.

These routes need no API key because the pages contain no data of tenants. The scripts send the
user's API key, which the browser keeps per tab. The API reference is rendered here in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.auth.scopes import Scope
from app.core.errors import NotFoundError
from app.dashboard import reference
from app.datasets.options import MAPPABLE
from app.datasets.shapes.table import SHAPES
from app.web import etags

router = APIRouter(include_in_schema=False)

PAGES = {
    "/": "jobs",
    "/jobs/new": "new-job",  # before the next one, which would match it too
    "/jobs/{job_id}": "job",
    "/compare": "compare",
    "/adapters": "adapters",
    "/adapters/{adapter_id}": "adapter",
    "/datasets": "datasets",
    "/datasets/{dataset_id}": "dataset",
    "/formats": "formats",
    "/evaluations": "evaluations",
    "/evaluations/{evaluation_id}": "evaluation",
    "/score-batches": "score-batches",
    "/queue": "queue",
    "/usage": "usage",
    "/admin": "admin",
}
HEADERS = {
    # Trusted types: the browser itself refuses to insert text as markup.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Revalidate on every use, so that pages and scripts match after an update.
    "Cache-Control": "no-cache",
}
#: Values in pages that are not loaded from the API.
_VALUES: Mapping[str, Mapping[str, Any]] = {
    "formats": {"shapes": SHAPES, "parts": MAPPABLE},
    "admin": {"scopes": [scope.value for scope in Scope]},
}
_HERE = Path(__file__).parent
# The mimetypes of the operating system may map .js to text/plain.
_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


class _Asset(NamedTuple):
    body: bytes
    media_type: str
    etag: str


def _page_endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return _asset_response(request, _page(name))

    page.__name__ = f"show_{name.replace('-', '_')}"
    return page


for _path, _name in PAGES.items():
    router.add_api_route(_path, _page_endpoint(_name), response_class=Response)


@router.get("/docs", response_class=Response)
async def show_docs(request: Request) -> Response:
    """The API reference."""
    return _asset_response(request, _api_reference(request.app))


@router.get("/static/{name}", response_class=Response)
async def static_file(request: Request, name: str) -> Response:
    """Return a script, the style sheet or the icon."""
    found = _static_files().get(name)
    if found is None:
        raise NotFoundError("There is no resource at this address.")
    return _asset_response(request, found)


def _asset_response(request: Request, asset: _Asset) -> Response:
    headers = HEADERS | {"ETag": asset.etag}
    if etags.is_match(request.headers.get("if-none-match"), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


def _api_reference(app: FastAPI) -> _Asset:
    """Return the API reference, rendered once per application."""
    if not hasattr(app.state, "docs"):
        document = app.openapi()
        app.state.docs = _render(
            "docs",
            operations=reference.operations(document),
            schemas=reference.schemas(document),
        )
    asset: _Asset = app.state.docs
    return asset


@cache
def _page(name: str) -> _Asset:
    """Return a page, rendered once because it is the same for all users."""
    return _render(name, **_VALUES.get(name, {}))


def _render(name: str, **values: Any) -> _Asset:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = reference.code
    environment.filters["as_json"] = partial(json.dumps, ensure_ascii=False, indent=1)
    text = environment.get_template(f"{name}.html").render(page=name, **values)
    return _asset(text.encode(), "text/html")


@cache
def _static_files() -> dict[str, _Asset]:
    return {
        path.name: _asset(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in (_HERE / "static").iterdir()
    }


def _asset(body: bytes, media_type: str) -> _Asset:
    return _Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
