"""The application: everything opens here and at start-up, nothing at import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import redis
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from app import handlers
from app.adapters.router import router as adapters
from app.api_keys.router import router as api_keys
from app.audit.router import router as audit
from app.base_models.catalogue import load_catalogue
from app.base_models.router import router as base_models
from app.broker import make_tickets
from app.dashboard.router import router as dashboard
from app.database import make_engine
from app.datasets.router import MAX_UPLOADS
from app.datasets.router import router as datasets
from app.dependencies import ReaderDep, SettingsDep, TicketsDep
from app.errors import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RateLimitedError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from app.handlers import PlainRefusals
from app.jobs.history import router as history
from app.jobs.merging import router as merging
from app.jobs.reading import live_workers
from app.jobs.reconciler import Reconciler
from app.jobs.router import router as jobs
from app.jobs.submitting import router as submitting
from app.jobs.watching import Watcher
from app.problems import Problem, ProblemType, documented, problem_types
from app.rates import Rates
from app.security import KeyRing
from app.settings import Settings
from app.telemetry import RequestLog, Telemetry, configure_logging
from app.webhooks.delivery import Deliverer
from app.webhooks.router import router as webhooks

log = structlog.get_logger()

MAX_BODY_BYTES = 1 << 20
WORKER_SEEN_MS = 30_000

root = APIRouter(tags=["service"])


class Plaudit(FastAPI):
    """FastAPI with an outermost layer: ids, logs and problems also where no handler reaches."""

    def build_middleware_stack(self) -> ASGIApp:
        """The framework's stack inside of ours."""
        stack: Any = PlainRefusals(super().build_middleware_stack(), self)
        layered: ASGIApp = RequestLog(stack, self.state.telemetry)
        return layered

    def openapi(self) -> dict[str, Any]:
        """The framework's document with our one error shape in it."""
        if not self.openapi_schema:
            document = super().openapi()
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= schema.pop("$defs") | {"Problem": schema}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    _correct(operation)
        assert self.openapi_schema is not None
        return self.openapi_schema


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service; ``settings`` come from the environment when they are not given."""
    settings = settings or Settings()
    app = Plaudit(
        title="Plaudit",
        version=version("plaudit"),
        summary="Reward models as a service.",
        lifespan=_lifespan,
        max_body_size=MAX_BODY_BYTES,
        # Both load their scripts from other people's servers.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.engine = make_engine(settings.database, settings.database_pool_size)
    app.state.reader = make_engine(settings.database, settings.database_pool_size, is_reader=True)
    app.state.tickets = make_tickets(settings)
    app.state.catalogue = load_catalogue(settings.base_models)
    app.state.keys = KeyRing(app.state.engine)
    app.state.lookups = {}
    app.state.rates = Rates(settings)
    app.state.telemetry = Telemetry(app.state.engine)
    app.state.watcher = Watcher(app.state.engine)
    app.state.upload_limiter = CapacityLimiter(MAX_UPLOADS)
    if settings.trusted_hosts:
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=sorted(settings.trusted_hosts), www_redirect=False
        )
    handlers.install(app)
    app.include_router(root)
    app.include_router(dashboard)
    guarded = documented(
        UnauthorizedError, ForbiddenError, InvalidError, RateLimitedError, UnavailableError
    )
    for router in (
        submitting,
        jobs,
        history,
        datasets,
        adapters,
        merging,
        base_models,
        api_keys,
        webhooks,
        audit,
    ):
        app.include_router(router, responses=guarded)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    if not structlog.is_configured():
        configure_logging()
    # More threads than connections would only wait for each other in the pools.
    settings: Settings = app.state.settings
    to_thread.current_default_thread_limiter().total_tokens = settings.database_pool_size
    pollers = ThreadPoolExecutor(settings.database_pool_size, thread_name_prefix="poll")
    asyncio.get_running_loop().set_default_executor(pollers)
    deliverer = Deliverer(app.state.engine, settings)
    deliverer.start()
    reconciler = Reconciler(app.state.engine, settings, app.state.tickets)
    reconciler.start()
    yield
    await to_thread.run_sync(reconciler.stop)
    await to_thread.run_sync(deliverer.stop)
    await app.state.watcher.close()
    app.state.tickets.close()
    app.state.reader.dispose()
    app.state.engine.dispose()


def _correct(operation: dict[str, Any]) -> None:
    """Say of an operation what only the whole of it tells."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses.pop("422")  # the framework's own, where nothing in the request could be wrong
    if "requestBody" in operation:
        for status, answer in documented(TooLargeError).items():
            responses.setdefault(str(status), answer)
    operation["responses"] = dict(sorted(responses.items()))


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether the things that this service needs answer; ``workers`` is for information."""

    status: str
    checks: dict[str, str]
    workers: int


@root.get("/healthz")
async def health() -> Health:
    """The process lives."""
    return Health(status="ok")


@root.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "Something needed is away."}},
)
def readiness(
    engine: ReaderDep, settings: SettingsDep, tickets: TicketsDep, response: Response
) -> Readiness:
    """Database and broker answer."""
    workers = 0

    def database() -> None:
        nonlocal workers
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM jobs LIMIT 1")).all()
            workers = len(live_workers(connection, WORKER_SEEN_MS))

    checks = {
        "database": _outcome(database),
        "broker": _outcome(lambda: tickets.backlog(settings.queue)),
    }
    is_ready = all(outcome == "ok" for outcome in checks.values())
    response.status_code = 200 if is_ready else 503
    return Readiness(status="ok" if is_ready else "away", checks=checks, workers=workers)


@root.get("/problems/{code}", responses=documented(NotFoundError))
async def explain_problem(code: str) -> ProblemType:
    """What the `type` of a problem leads to: its meaning and what to do next."""
    for problem in problem_types():
        if problem.code == code:
            return problem
    raise NotFoundError("No problem has this code.", hint="docs/errors.md lists them all.")


@root.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
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
