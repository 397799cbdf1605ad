"""The dashboard: pages without data, and the script that fills them through the public API.

Only the page about the API itself comes whole: it is for everybody.

Nothing here reads a row or a key: whoever may see something asks ``/v1`` for it with their own API
key, which the script keeps in the browser's tab.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.core.errors import NotFoundError
from app.dashboard import reference
from app.web import etags

router = APIRouter(include_in_schema=False)

PAGES = {
    "/": "jobs",
    "/jobs/{job_id}": "job",
    "/adapters/{adapter_id}": "adapter",
    "/datasets": "datasets",
    "/queue": "queue",
}
HEADERS = {
    # Trusted types: the browser itself refuses to make markup of anybody's text.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked about every time: after an update pages and scripts belong together.
    "Cache-Control": "no-cache",
}
_HERE = Path(__file__).parent
# Not asked of the machine's registry, which may call a script text/plain.
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _Asset(NamedTuple):
    body: bytes
    media_type: str
    etag: str


def _show(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return _answer(request, _shell(name))

    page.__name__ = f"show_{name}"
    return page


for _path, _name in PAGES.items():
    router.add_api_route(_path, _show(_name), response_class=Response)


@router.get("/docs", response_class=Response)
async def show_docs(request: Request) -> Response:
    """What the API takes and answers."""
    return _answer(request, _docs(request.app))


@router.get("/static/{name}", response_class=Response)
async def static_file(request: Request, name: str) -> Response:
    """A script, the style sheet, the icon."""
    found = _static_files().get(name)
    if found is None:
        raise NotFoundError("There is nothing at this address.")
    return _answer(request, found)


def _answer(request: Request, asset: _Asset) -> Response:
    headers = HEADERS | {"ETag": asset.etag}
    if etags.is_match(request.headers.get("if-none-match"), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


def _docs(app: FastAPI) -> _Asset:
    """Rendered once for each service."""
    if not hasattr(app.state, "docs"):
        document = app.openapi()
        app.state.docs = _page(
            "docs",
            operations=reference.operations(document),
            shapes=reference.shapes(document),
        )
    asset: _Asset = app.state.docs
    return asset


@cache
def _shell(name: str) -> _Asset:
    """Rendered once: a page is the same for everybody."""
    return _page(name)


def _page(name: str, **values: Any) -> _Asset:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = reference.code
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
