"""Evaluations of adapters; ``client.evaluations``, ``client.suites``, ``client.comparisons``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Unpack

from plaudit import params
from plaudit._async import following
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, json_lines, parse, path
from plaudit.models import (
    ComparisonRead,
    EvaluationItem,
    EvaluationRead,
    EvaluationReport,
    EventRead,
    SuiteRead,
    WorstPairs,
)

#: Read timeout: a comparison of large tables takes seconds and may queue behind others.
_COMPARE_SECONDS = 300.0
Rows = list[dict[str, Any]]


class AsyncEvaluations:
    """Evaluations of adapters on datasets and benchmarks."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, *, idempotency_key: str | None = None, **spec: Unpack[params.EvaluationSpec]
    ) -> EvaluationRead:
        """Queue an evaluation of adapters on a dataset.

        All attempts of one call send the same idempotency key, so that a retry never creates a
        second evaluation. Pass ``idempotency_key`` to repeat the call from another process.

        Raises:
            InvalidRequestError: the spec is invalid; ``errors`` names the fields.
            QuotaExceededError: the limit of queued evaluations is reached.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        call = Call("POST", "/v1/evaluations", body=spec, headers=headers)
        return parse(EvaluationRead, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[EvaluationItem]:
        """List evaluations, newest first, without spec and result. Iterating requests further
        pages as needed."""
        query = {"limit": page_size, "after": after}
        return AsyncItems(self._transport, Call("GET", "/v1/evaluations", query), EvaluationItem)

    async def get(self, evaluation_id: str) -> EvaluationRead:
        """Return an evaluation; ``result`` is None until it has succeeded."""
        call = Call("GET", path("/v1/evaluations/{}", evaluation_id))
        return parse(EvaluationRead, await self._transport.send(call))

    async def wait(
        self,
        evaluation_id: str,
        *,
        progress: Callable[[EvaluationRead], object] | None = None,
        timeout: float | None = None,
    ) -> EvaluationRead:
        """Wait until the evaluation has succeeded, failed or been cancelled, and return it.

        Waiting continues across restarts of the service, up to ``Retries.outage_seconds``.
        ``progress`` is called with its state at once, every five seconds, and when it has ended.

        Raises:
            TimeoutError: it has not ended after ``timeout`` seconds. The evaluation continues.
        """
        address = path("/v1/evaluations/{}", evaluation_id)
        return await following.wait_finished(
            self._transport, EvaluationRead, address, timeout, progress
        )

    async def cancel(self, evaluation_id: str) -> EvaluationRead:
        """Cancel an evaluation. It cannot be resumed."""
        call = Call("POST", path("/v1/evaluations/{}/cancel", evaluation_id))
        return parse(EvaluationRead, await self._transport.send(call))

    async def delete(self, evaluation_id: str) -> None:
        """Delete a finished evaluation and its scores."""
        await self._transport.send(Call("DELETE", path("/v1/evaluations/{}", evaluation_id)))

    def events(
        self, evaluation_id: str, *, after: int = 0, follow: bool = True
    ) -> AsyncIterator[EventRead]:
        """Yield the events of an evaluation, oldest first; see ``jobs.events``."""
        address = path("/v1/evaluations/{}/events", evaluation_id)
        return following.events(self._transport, address, after, follow=follow)

    async def scores(self, evaluation_id: str, adapter: str | None = None) -> Rows:
        """Return the scores that a model gave, one dict per row; default: the first adapter."""
        call = Call(
            "GET", path("/v1/evaluations/{}/scores", evaluation_id), {"adapter": adapter}
        )  # fmt: skip
        return json_lines(await self._transport.send(call))

    async def worst_pairs(self, evaluation_id: str) -> WorstPairs:
        """Return for each model the pairs with the most negative margins, with their texts."""
        call = Call("GET", path("/v1/evaluations/{}/worst-pairs", evaluation_id))
        return parse(WorstPairs, await self._transport.send(call))

    async def report(self, evaluation_id: str) -> EvaluationReport:
        """Return the content of the report page: the evaluation, its worst pairs and its plots
        (SVG)."""
        call = Call("GET", path("/v1/evaluations/{}/reports/full.json", evaluation_id))
        return parse(EvaluationReport, await self._transport.send(call))

    async def report_page(self, evaluation_id: str) -> str:
        """Return the report as one self-contained HTML page."""
        call = Call("GET", path("/v1/evaluations/{}/reports/full.html", evaluation_id))
        return (await self._transport.send(call)).text


class AsyncSuites:
    """Public benchmarks whose scoring rules the service implements."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[SuiteRead]:
        """List all suites: the rule, the source of the rows, and how to upload them."""
        return AsyncItems(self._transport, Call("GET", "/v1/suites"), SuiteRead)


class AsyncComparisons:
    """Comparisons of two models on the same rows."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(
        self, a: str, b: str, *, a_adapter: str | None = None, b_adapter: str | None = None
    ) -> ComparisonRead:
        """Compare a model of the evaluation ``a`` with a model of the evaluation ``b``.

        ``a`` and ``b`` may be the same evaluation. The default of ``a_adapter`` and ``b_adapter``
        is the first adapter of the evaluation.

        Raises:
            InvalidRequestError: the evaluations did not score the same rows.
        """
        query = {"a": a, "b": b, "a_adapter": a_adapter, "b_adapter": b_adapter}
        call = Call("GET", "/v1/comparisons", query, read_seconds=_COMPARE_SECONDS)
        return parse(ComparisonRead, await self._transport.send(call))

    async def report_page(
        self, a: str, b: str, *, a_adapter: str | None = None, b_adapter: str | None = None
    ) -> str:
        """Return the comparison as one self-contained HTML page."""
        query = {"a": a, "b": b, "a_adapter": a_adapter, "b_adapter": b_adapter}
        call = Call("GET", "/v1/comparisons/full.html", query, read_seconds=_COMPARE_SECONDS)
        return (await self._transport.send(call)).text
