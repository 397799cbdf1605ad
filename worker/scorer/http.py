"""The HTTP side of a scorer: only the API talks to it, with the token that both share."""

from __future__ import annotations

import asyncio
import hmac
import threading
from typing import Annotated

import structlog
import uvicorn
from fastapi import FastAPI, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from app.domain.scoring import ScoreProblem, ScoreWork
from worker.scorer.engine import Engine
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.metrics import ScorerMetrics

log = structlog.get_logger()

MAX_BODY_BYTES = 64 << 20
STATUSES = {"scorer_saturated": 503, "scorer_unavailable": 503}
JSON = "application/json"


def make_app(engine: Engine, metrics: ScorerMetrics, token: str) -> FastAPI:
    """Create the application; every route but /healthz requires the token."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, max_body_size=MAX_BODY_BYTES)

    def is_allowed(authorization: str | None) -> bool:
        return hmac.compare_digest((authorization or "").encode(), f"Bearer {token}".encode())

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/score")
    async def score(
        request: Request, authorization: Annotated[str | None, Header()] = None
    ) -> Response:
        if not is_allowed(authorization):
            return Response(status_code=401)
        body = await request.body()
        try:
            work = await run_in_threadpool(ScoreWork.model_validate_json, body)
        except ValidationError as error:
            return Response(str(error), status_code=400)
        try:
            result = await asyncio.wrap_future(engine.submit(work))
        except ScoreRefusedError as error:
            return _refusal(error.problem)
        except Exception as error:  # noqa: BLE001 - the engine has logged it
            return Response(type(error).__name__, status_code=500)
        return Response(result.model_dump_json(), media_type=JSON)

    @app.get("/metrics")
    async def show_metrics(authorization: Annotated[str | None, Header()] = None) -> Response:
        if not is_allowed(authorization):
            return Response(status_code=401)
        page = await run_in_threadpool(generate_latest, metrics.registry)
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return app


def _refusal(problem: ScoreProblem) -> Response:
    return Response(
        problem.model_dump_json(), status_code=STATUSES.get(problem.code, 422), media_type=JSON
    )


class HttpThread:
    """Serves an application on a listening socket in a separate thread."""

    def __init__(self, app: FastAPI) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, backlog=2048
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._sockets: list[object] = []

    def start(self, sockets: list[object]) -> None:
        """Start to serve."""
        self._sockets = sockets
        self._thread.start()

    def stop(self) -> None:
        """Answer the accepted requests, and stop."""
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def _run(self) -> None:
        self._server.run(sockets=self._sockets)  # type: ignore[arg-type]
