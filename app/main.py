"""The application: everything opens here and at start-up, nothing at import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app.adapters.router import router as adapters
from app.api_keys.router import router as api_keys
from app.audit.router import router as audit
from app.auth.key_ring import KeyRing
from app.auth.rate_limit import Rates
from app.base_models.catalogue import load_catalogue
from app.base_models.router import router as base_models
from app.core.broker import make_tickets
from app.core.database import make_engine
from app.core.errors import (
    ForbiddenError,
    InvalidError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from app.core.logging import configure_logging
from app.core.settings import Settings
from app.dashboard.router import router as dashboard
from app.datasets.router import MAX_UPLOADS
from app.datasets.router import router as datasets
from app.job_queue.reconciler import Reconciler
from app.job_queue.router import router as job_queue
from app.job_queue.watcher import Watcher
from app.jobs.history_router import router as history
from app.jobs.router import router as jobs
from app.jobs.submission_router import router as submitting
from app.merges.router import router as merges
from app.reports.router import router as reports
from app.system.metrics import Telemetry
from app.system.router import router as system
from app.web import exception_handlers
from app.web.application import Plaudit
from app.web.problem_details import documented
from app.webhooks.delivery import Deliverer
from app.webhooks.router import router as webhooks

log = structlog.get_logger()

#: Of JSON bodies; uploads have a limit of their own.
MAX_BODY_BYTES = 256 << 10


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
    exception_handlers.install(app)
    app.include_router(system)
    app.include_router(dashboard)
    guarded = documented(
        UnauthorizedError, ForbiddenError, InvalidError, RateLimitedError, UnavailableError
    )
    for router in (
        submitting,
        jobs,
        history,
        reports,
        job_queue,
        datasets,
        adapters,
        merges,
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
    app.state.telemetry.close()
    app.state.reader.dispose()
    app.state.engine.dispose()
