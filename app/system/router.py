"""Routes for health, readiness, metrics and the explanation of error codes."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.core.errors import NotFoundError, UnauthorizedError
from app.system.metrics import Telemetry
from app.system.readiness import Readiness
from app.web.dependencies import SettingsDep
from app.web.problem_details import ProblemType, error_responses, problem_types
from app.web.shared_result import SharedResult

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """Whether the process responds."""

    status: str


@router.get("/healthz")
async def health() -> Health:
    """Check that the process responds."""
    return Health(status="ok")


@router.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "The database or broker is unavailable."}},
)
async def readiness(request: Request, response: Response) -> Readiness:
    """Check that database and broker respond."""
    shared: SharedResult[Readiness] = request.app.state.readiness
    found = await shared.get()
    response.status_code = 503 if found.status == "away" else 200
    return found


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
    return Response(await telemetry.page.get(), headers={"Content-Type": CONTENT_TYPE_LATEST})
