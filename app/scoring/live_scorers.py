"""Find live scorers: rows with a recent heartbeat whose process accepts connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from app.core.database import now_ms, reader
from app.models import Scorer

log = structlog.get_logger()

#: A scorer that has not updated its row for this long is gone. Scorers update it every 2 s.
SCORER_GONE_MS = 15_000
#: Seconds between two searches: while requests wait for a scorer, and otherwise.
SEARCH_SECONDS = 0.25
REFRESH_SECONDS = 1.0
PROBE_SECONDS = 2.0


class LiveScorers:
    """Searches for scorers while it is used; for one event loop."""

    def __init__(
        self, engine: Engine, queue: str, client: httpx.AsyncClient, on_none: Callable[[], None]
    ) -> None:
        self._engine, self._queue, self._client = engine, queue, client
        self._on_none = on_none
        self._urls: frozenset[str] = frozenset()
        self._found = asyncio.Event()
        self._users = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def urls(self) -> frozenset[str]:
        """URLs of the scorers that responded lately."""
        return self._urls

    def enter(self) -> None:
        """Search for scorers until ``leave`` was called as often as ``enter``."""
        self._users += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._search())

    def leave(self) -> None:
        """Undo one call of ``enter``."""
        self._users -= 1

    async def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until a scorer responds; return whether one does."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._found.wait()
        except TimeoutError:
            return False
        return True

    def forget(self, url: str) -> None:
        """Remove a scorer that does not respond; the search finds it again when it does."""
        self._set(self._urls - {url})

    async def close(self) -> None:
        """Stop searching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _search(self) -> None:
        while self._users:
            try:
                registered = await run_in_threadpool(self._registered)
                new = [url for url in registered if url not in self._urls]
                answers = await asyncio.gather(*map(self._answers, new))
                up = {url for url, is_up in zip(new, answers, strict=True) if is_up}
                self._set((self._urls & set(registered)) | up)
                if not self._urls:
                    self._on_none()
            except SQLAlchemyError as error:
                log.warning("scorers_not_read", error=type(error).__name__)
            except Exception:  # requests wait for this search, and nothing else restarts it
                log.exception("scorers_not_found")
            await asyncio.sleep(REFRESH_SECONDS if self._urls else SEARCH_SECONDS)

    def _registered(self) -> list[str]:
        with reader(self._engine).connect() as connection:
            return list(
                connection.scalars(
                    select(Scorer.url)
                    .where(
                        Scorer.queue == self._queue,
                        Scorer.state == "ready",
                        Scorer.seen_at > now_ms() - SCORER_GONE_MS,
                    )
                    .order_by(Scorer.id)
                )
            )

    async def _answers(self, url: str) -> bool:
        try:
            answer = await self._client.get(f"{url}/healthz", timeout=PROBE_SECONDS)
        except httpx.TransportError:
            return False
        except Exception:  # such as one of httpx for an invalid URL; the others are found anyway
            log.exception("scorer_not_probed", url=url)
            return False
        return answer.is_success

    def _set(self, urls: frozenset[str] | set[str]) -> None:
        self._urls = frozenset(urls)
        if urls:
            self._found.set()
        else:
            self._found.clear()
