"""Hold scoring requests and forward them to scorers.

Scoring is a pure function of the request, so a request is sent to another scorer if its scorer
dies. An RL trainer could read an error as a bad score, so requests wait; they get 503 only if the
queue is full or no scorer returns in time.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import structlog
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Engine

from app.core.errors import ServiceError
from app.core.scorer_token import read_token
from app.core.settings import Settings
from app.domain.scoring import ScoredWork, ScoreItem, ScoreProblem, ScoreWork
from app.scoring.errors import ScorerSaturatedError, ScorerUnavailableError
from app.scoring.live_scorers import LiveScorers
from app.scoring.scorer_client import ScorerClient

log = structlog.get_logger()

#: Maximum number of requests from this process at one scorer; the others wait here.
PER_SCORER = 256
CONNECT_SECONDS = 3.0
#: Seconds between two checks that the scorer of a request is still registered.
CHECK_SECONDS = 2.0
#: Larger bodies are serialised and parsed in a thread.
INLINE_BYTES = 16 << 10


class WorkRefusedError(Exception):
    """The scorer refused the work; ``problem`` says why."""

    def __init__(self, problem: ScoreProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Dispatcher:
    """The scoring requests of one API process; for one event loop."""

    def __init__(
        self, settings: Settings, engine: Engine, on_none: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._headers: dict[str, str] | None = None
        self._client = ScorerClient(
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=PER_SCORER),
            trust_env=False,  # scorers are never behind a proxy
        )
        self._scorers = LiveScorers(engine, settings.queue, self._client, on_none)
        self._at_scorer: Counter[str] = Counter()
        self._room = asyncio.Condition()
        self.waiting = 0
        self._bytes = 0

    async def score(self, work: ScoreWork, size: int) -> ScoredWork:
        """Return the scores of work of about ``size`` bytes.

        Raises:
            WorkRefusedError: the work is at fault.
            ScorerSaturatedError: too many requests wait.
            ScorerUnavailableError: no scorer answered for ``scoring_hold_seconds``.
        """
        with self._held(size):
            # A scorer of an earlier version refuses fields that it does not know.
            serialize = partial(work.model_dump_json, exclude_defaults=True)
            try:
                body = serialize() if size <= INLINE_BYTES else await run_in_threadpool(serialize)
            except PydanticSerializationError as error:
                raise WorkRefusedError(_half_character(work)) from error
            return await self._send(body.encode(), work.adapters[0])

    async def close(self) -> None:
        """Close the connections."""
        await self._scorers.close()
        await self._client.aclose()

    @contextmanager
    def _held(self, size: int) -> Iterator[None]:
        is_full = self.waiting >= self._settings.scoring_waiting
        if is_full or self._bytes + size > self._settings.scoring_waiting_bytes:
            raise ScorerSaturatedError(
                f"{self.waiting} scoring requests wait in this process.",
                hint=ScorerSaturatedError.next_step,
            )
        self.waiting += 1
        self._bytes += size
        self._scorers.enter()
        try:
            yield
        finally:
            self._scorers.leave()
            self.waiting -= 1
            self._bytes -= size

    async def _send(self, body: bytes, adapter: str) -> ScoredWork:
        away_since = time.monotonic()
        while True:
            left = self._settings.scoring_hold_seconds - (time.monotonic() - away_since)
            if not await self._scorers.wait(left):
                raise ScorerUnavailableError(
                    f"No scorer answered for {self._settings.scoring_hold_seconds:g} s.",
                    hint=ScorerUnavailableError.next_step,
                )
            if (url := await self._take_place(adapter)) is None:
                continue
            sent_at = time.monotonic()
            try:
                if (answer := await self._post(url, body)) is not None:
                    return answer
            finally:
                await self._give_place(url)
            self._scorers.forget(url)
            if time.monotonic() - sent_at > CONNECT_SECONDS:  # it responded until now
                away_since = time.monotonic()

    async def _take_place(self, adapter: str) -> str | None:
        """Wait for room at a scorer and return its URL; return None if no scorer is left.

        Among equally busy scorers, each adapter has a preferred one, which has it in memory.
        """
        async with self._room:
            while urls := self._scorers.urls:
                url = min(
                    urls,
                    key=lambda u: (self._at_scorer[u] // 8, zlib.crc32(f"{u} {adapter}".encode())),
                )
                if self._at_scorer[url] < PER_SCORER:
                    self._at_scorer[url] += 1
                    return url
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._room.wait()
                except TimeoutError:
                    continue
        return None

    async def _give_place(self, url: str) -> None:
        async with self._room:
            self._at_scorer[url] -= 1
            self._room.notify()

    async def _post(self, url: str, body: bytes) -> ScoredWork | None:
        """Return the scorer's response; return None if the scorer is gone."""
        request = asyncio.create_task(self._request(url, body))
        try:
            while not request.done():
                await asyncio.wait({request}, timeout=CHECK_SECONDS)
                if not request.done() and url not in self._scorers.urls:
                    return None  # its machine vanished without closing the connection
            answer = request.result()
        except httpx.TransportError as error:
            log.warning("scorer_gone", url=url, error=repr(error))
            return None
        finally:
            request.cancel()
        if answer.status_code == httpx.codes.OK:
            if len(answer.content) <= INLINE_BYTES:
                return ScoredWork.model_validate_json(answer.content)
            return await run_in_threadpool(ScoredWork.model_validate_json, answer.content)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(0.5)
            return None
        raise _error_of(answer)

    async def _request(self, url: str, body: bytes) -> httpx.Response:
        if self._headers is None:
            token = await run_in_threadpool(read_token, self._settings)
            self._headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
            }
        return await self._client.post(f"{url}/score", content=body, headers=self._headers)


def _half_character(work: ScoreWork) -> ScoreProblem:
    """Return the problem of a text with half of a surrogate pair, which JSON's escapes allow."""
    item = next(i for i, each in enumerate(work.items) if not _is_unicode(each))
    replies = enumerate(work.items[item].responses)
    return ScoreProblem(
        code="item_invalid",
        detail="the text contains half of a character, an escape such as \\ud83d alone",
        item=item,
        response=next((j for j, r in replies if not _is_unicode(ScoreItem(responses=[r]))), None),
    )


def _is_unicode(item: ScoreItem) -> bool:
    try:
        item.model_dump_json()
    except PydanticSerializationError:
        return False
    return True


def _error_of(answer: httpx.Response) -> Exception:
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        try:
            return WorkRefusedError(ScoreProblem.model_validate_json(answer.content))
        except ValidationError:
            pass  # from another version of Plaudit
    log.error("scorer_failed", status=answer.status_code, detail=answer.text[:500])
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return ScorerUnavailableError(
            "The scorer rejects the API.", hint="PLAUDIT_SCORER_TOKEN differs between them."
        )
    return ServiceError("The scorer failed unexpectedly.", hint=ServiceError.next_step)
