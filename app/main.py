"""The application factory: connects the parts of the service and starts its background threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
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
from app.auth.require_scope import KeyLookups
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
from app.datasets.part_uploads_router import router as part_uploads
from app.datasets.router import router as datasets
from app.datasets.upload_places import UploadPlaces
from app.evaluations.comparing import MAX_COMPARISONS
from app.evaluations.report_router import router as evaluation_reports
from app.evaluations.router import router as evaluations
from app.hub_api.router import router as hub_api
from app.imports.router import router as imports
from app.job_queue.reconciler import Reconciler
from app.job_queue.router import router as job_queue
from app.job_queue.watcher import Watcher
from app.jobs.history_router import router as history
from app.jobs.router import router as jobs
from app.jobs.submission_router import router as submission
from app.merges.router import router as merges
from app.pushes.router import router as pushes
from app.reports.router import router as reports
from app.score_batches.router import router as score_batches
from app.scoring.compat_router import router as scoring_compat
from app.scoring.dispatcher import Dispatcher
from app.scoring.keeper import ScorerKeeper
from app.scoring.router import router as scoring
from app.scoring.scoring import AdapterMemory
from app.system.metrics import Telemetry
from app.system.readiness import check_readiness
from app.system.router import router as system
from app.usage.meter import TokenMeter
from app.usage.router import router as usage
from app.web import exception_handlers
from app.web.application import Plaudit
from app.web.middleware import ForwardedAddress
from app.web.problem_details import error_responses
from app.web.shared_result import SharedResult
from app.webhooks.dispatch import Deliverer
from app.webhooks.router import router as webhooks

#: Routes without an API key.
PUBLIC_ROUTERS = (system, dashboard)
#: Routes of the API, in the order of the OpenAPI document.
API_ROUTERS = (
    submission,
    jobs,
    reports,  # before the reports by name
    history,
    job_queue,
    part_uploads,  # before the routes of /v1/datasets/{dataset_id}
    imports,
    hub_api,
    datasets,
    adapters,
    merges,
    pushes,
    scoring,
    score_batches,
    scoring_compat,
    evaluations,
    evaluation_reports,
    base_models,
    api_keys,
    webhooks,
    audit,
    usage,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the service; without ``settings`` they are read from the environment."""
    settings = settings or Settings()
    app = Plaudit(
        title="Plaudit",
        version=version("plaudit"),
        summary="Reward models as a service.",
        lifespan=_lifespan,
    )
    _set_state(app, settings)
    if settings.trusted_hosts:
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=sorted(settings.trusted_hosts), www_redirect=False
        )
    if settings.trusted_proxies:
        app.add_middleware(ForwardedAddress, proxies=settings.trusted_proxies)
    exception_handlers.install(app)
    for router in PUBLIC_ROUTERS:
        app.include_router(router)
    responses = error_responses(
        UnauthorizedError, ForbiddenError, InvalidError, RateLimitedError, UnavailableError
    )
    for router in API_ROUTERS:
        app.include_router(router, responses=responses)
    return app


def _set_state(app: FastAPI, settings: Settings) -> None:
    """Create the objects that requests share. None of them opens a connection yet."""
    state = app.state
    state.settings = settings
    state.engine = make_engine(settings.database, settings.database_pool_size)
    state.reader = make_engine(settings.database, settings.database_pool_size, is_reader=True)
    state.tickets = make_tickets(settings)
    state.catalogue = load_catalogue(settings.base_models)
    state.keys = KeyRing(state.engine)
    state.lookups = KeyLookups()
    state.rates = Rates(settings)
    state.telemetry = Telemetry(state.engine)
    state.readiness = SharedResult(partial(check_readiness, state.reader, settings, state.tickets))
    state.watcher = Watcher(state.engine)
    state.scoring_adapters = AdapterMemory(state.reader)
    state.comparison_limiter = CapacityLimiter(MAX_COMPARISONS)
    state.upload_places = UploadPlaces()
    state.token_meter = TokenMeter(state.engine)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the background threads of one API process while it serves requests."""
    if not structlog.is_configured():
        configure_logging()
    settings: Settings = app.state.settings
    # Threads beyond the size of a connection pool would only wait for a connection.
    to_thread.current_default_thread_limiter().total_tokens = settings.database_pool_size
    pollers = ThreadPoolExecutor(settings.database_pool_size, thread_name_prefix="poll")
    asyncio.get_running_loop().set_default_executor(pollers)
    deliverer = Deliverer(app.state.engine, settings)
    deliverer.start()
    reconciler = Reconciler(app.state.engine, settings, app.state.tickets)
    reconciler.start()
    app.state.rates.start()
    app.state.token_meter.start()
    keeper = ScorerKeeper(settings) if settings.is_embedded else None
    on_none = keeper.want if keeper else lambda: None
    app.state.dispatcher = Dispatcher(settings, app.state.reader, on_none)
    app.state.telemetry.scoring_waiting.set_function(lambda: app.state.dispatcher.waiting)
    yield
    await app.state.dispatcher.close()
    await to_thread.run_sync(app.state.token_meter.stop)
    if keeper is not None:
        await to_thread.run_sync(keeper.stop)
    await app.state.rates.stop()
    await to_thread.run_sync(reconciler.stop)
    await to_thread.run_sync(deliverer.stop)
    await app.state.watcher.close()
    app.state.tickets.close()
    app.state.telemetry.page.close()
    app.state.readiness.close()
    app.state.reader.dispose()
    app.state.engine.dispose()
