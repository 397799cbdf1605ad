"""Routes for health, readiness, metrics and the explanation of error codes."""

from __future__ import annotations

from collections.abc import Callable

import redis
import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import NotFoundError
from app.job_queue.queries import live_workers
from app.job_queue.workers import WORKER_GONE_MS
from app.system.metrics import Telemetry
from app.web.dependencies import ReadEngineDep, SettingsDep, TicketsDep
from app.web.problem_details import ProblemType, error_responses, problem_types

log = structlog.get_logger()

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """Whether the process responds."""

    status: str


class Readiness(BaseModel):
    """Whether database and broker respond. `workers` is informational."""

    status: str
    checks: dict[str, str]
    workers: int


@router.get("/healthz")
async def health() -> Health:
    """Check that the process responds."""
    return Health(status="ok")


@router.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "The database or broker is unavailable."}},
)
def readiness(
    engine: ReadEngineDep, settings: SettingsDep, tickets: TicketsDep, response: Response
) -> Readiness:
    """Check that database and broker respond."""
    workers = 0

    def check_database() -> None:
        nonlocal workers
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM jobs LIMIT 1")).all()
            workers = len(live_workers(connection, WORKER_GONE_MS))

    checks = {
        "database": _outcome(check_database),
        "broker": _outcome(lambda: tickets.backlog(settings.queue)),
    }
    is_ready = all(outcome == "ok" for outcome in checks.values())
    response.status_code = 200 if is_ready else 503
    return Readiness(status="ok" if is_ready else "away", checks=checks, workers=workers)


@router.get("/problems/{code}", responses=error_responses(NotFoundError))
async def explain_problem(code: str) -> ProblemType:
    """Explain an error code. The `type` of every problem is the URL of this route."""
    for problem in problem_types():
        if problem.code == code:
            return problem
    raise NotFoundError("There is no such error code.", hint="docs/errors.md lists all codes.")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Return metrics in the Prometheus text format."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(
        generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except (SQLAlchemyError, redis.RedisError, OSError) as error:
        log.warning("not_ready", error=type(error).__name__)
        return "away"
    return "ok"
