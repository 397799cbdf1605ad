"""Handle one scoring request; shared by all routes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

from app.core.database import transaction
from app.domain.scoring import ScoredWork, ScoreWork
from app.scoring import service
from app.scoring.dispatcher import Dispatcher, WorkRefusedError
from app.scoring.schemas import Ensemble
from app.scoring.scoring_model import ScoringAdapter, ScoringModel, find_adapter
from app.usage.meter import TokenMeter

#: Seconds for which a process caches an adapter. A deleted adapter can be used for this long.
REMEMBER_SECONDS = 10.0
MAX_REMEMBERED = 1000


class AdapterMemory:
    """Cache of recently used adapters, so that not every request reads them from the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[str, str], tuple[ScoringAdapter, float]] = {}

    async def find(self, tenant_id: str, adapter_id: str) -> ScoringAdapter:
        """Return an adapter of this tenant, or raise AdapterNotFoundError."""
        key = tenant_id, adapter_id
        found = self._known.get(key)
        if found is not None and found[1] > time.monotonic():
            return found[0]
        adapter = await run_in_threadpool(self._read, *key)
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = adapter, time.monotonic() + REMEMBER_SECONDS
        return adapter

    def _read(self, tenant_id: str, adapter_id: str) -> ScoringAdapter:
        with transaction(self._engine) as session:
            return find_adapter(session, tenant_id, adapter_id)


async def find_model(request: Request, tenant_id: str, model: str | Ensemble) -> ScoringModel:
    """Return the adapter or the ensemble that a request names.

    Raises:
        AdapterNotFoundError
    """
    memory: AdapterMemory = request.app.state.scoring_adapters
    if isinstance(model, str):
        return ScoringModel((await memory.find(tenant_id, model),))
    members = [await memory.find(tenant_id, member) for member in model.ensemble]
    return ScoringModel(tuple(members), model)


async def score(
    request: Request, work: ScoreWork, locs: Sequence[Sequence[str]], size: int
) -> ScoredWork:
    """Send the work to a scorer; ``locs`` name every reply of every item in error messages.

    Raises:
        ServiceError: one of the errors of ``app.scoring.errors``.
    """
    dispatcher: Dispatcher = request.app.state.dispatcher
    try:
        scored = await dispatcher.score(work, size)
    except WorkRefusedError as error:
        raise service.error_for(error.problem, locs) from error
    meter: TokenMeter = request.app.state.token_meter
    meter.add(request.scope["principal"].tenant_id, scored.computed_tokens)
    return scored
