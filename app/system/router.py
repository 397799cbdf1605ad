"""Routes for health, readiness, metrics and the explanation of error codes."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated

import redis
import structlog
from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import NotFoundError, UnauthorizedError
from app.job_queue.queries import live_workers
from app.storage.free_space import StorageFullError, check_free_space
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
            # A worker has one row per queue; count its row for the training queue.
            rows = live_workers(connection)
            workers = sum(row.queue == settings.queue for row in rows)

    checks = {
        "database": _outcome(check_database),
        "storage": _outcome(lambda: check_free_space(engine, 0)),
        "broker": _outcome(tickets.check),
    }
    # A full disk must not take the service out of a load balancer, because users must delete data.
    is_ready = all(outcome != "away" for outcome in checks.values())
    response.status_code = 200 if is_ready else 503
    is_full = checks["storage"] == "full"
    status = "away" if not is_ready else "degraded" if is_full else "ok"
    return Readiness(status=status, checks=checks, workers=workers)


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
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **error_responses(UnauthorizedError),
    },
)
async def metrics(
    request: Request,
    settings: SettingsDep,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Return metrics in the Prometheus text format.

    The operator can require a bearer token (PLAUDIT_METRICS_TOKEN).
    """
    if settings.metrics_token is not None:
        expected = f"Bearer {settings.metrics_token.get_secret_value()}"
        if not hmac.compare_digest((authorization or "").encode(), expected.encode()):
            raise UnauthorizedError(
                "The metrics token is missing or wrong.",
                hint="Send 'Authorization: Bearer …' with the value of PLAUDIT_METRICS_TOKEN.",
            )
    telemetry: Telemetry = request.app.state.telemetry
    return Response(await telemetry.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except StorageFullError:
        log.error("not_ready", error="storage_full")
        return "full"
    except (SQLAlchemyError, redis.RedisError, OSError) as error:
        log.warning("not_ready", error=type(error).__name__)
        return "away"
    return "ok"
