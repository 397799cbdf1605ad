# Generated from ../_async/evaluations.py by `make client-models`. Do not edit.
"""Judge adapters; ``client.evaluations``, ``client.suites``, ``client.comparisons``."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Unpack

from plaudit import params
from plaudit._calls import Call, parse, path
from plaudit._sync import following
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit.models import (
    ComparisonRead,
    EvaluationItem,
    EvaluationRead,
    EvaluationReport,
    EventRead,
    SuiteRead,
    WorstPairs,
)

#: Longer than the service holds a request that waits.
_WAIT_SECONDS = 30.0
_READ_SECONDS = 60.0
#: A comparison of large tables takes seconds, and may queue behind others.
_COMPARE_SECONDS = 300.0
_FINISHED = ("succeeded", "failed", "cancelled")
Rows = list[dict[str, Any]]


class Evaluations:
    """Evaluations of adapters on datasets and benchmarks."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, *, idempotency_key: str | None = None, **spec: Unpack[params.EvaluationSpec]
    ) -> EvaluationRead:
        """Queue an evaluation of adapters on a dataset.

        A lost answer is asked for again under one idempotency key, so that there is never a
        second evaluation. Give a key of your own to repeat the call from another process as well.

        Raises:
            InvalidRequestError: the parts do not fit; ``errors`` names the fields.
            QuotaExceededError: as many evaluations wait as may.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        call = Call("POST", "/v1/evaluations", body=spec, headers=headers)
        return parse(EvaluationRead, self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> Items[EvaluationItem]:
        """Evaluations, newest first, without spec and result; all pages, as they are iterated."""
        query = {"limit": page_size, "after": after}
        return Items(self._transport, Call("GET", "/v1/evaluations", query), EvaluationItem)

    def get(self, evaluation_id: str) -> EvaluationRead:
        """An evaluation, with its result once it has succeeded."""
        call = Call("GET", path("/v1/evaluations/{}", evaluation_id))
        return parse(EvaluationRead, self._transport.send(call))

    def wait(self, evaluation_id: str, *, timeout: float | None = None) -> EvaluationRead:
        """The evaluation once it is finished, however it ended.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds; it goes on.
        """
        ends_at = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_SECONDS if ends_at is None else ends_at - time.monotonic()
            call = Call(
                "GET",
                path("/v1/evaluations/{}", evaluation_id),
                {"wait": max(0.0, min(left, _WAIT_SECONDS))},
                read_seconds=_READ_SECONDS,
            )
            found = parse(EvaluationRead, self._transport.send(call))
            if found.status in _FINISHED:
                return found
            if ends_at is not None and time.monotonic() >= ends_at:
                raise TimeoutError(f"{evaluation_id} is {found.status} after {timeout:g} s")

    def cancel(self, evaluation_id: str) -> EvaluationRead:
        """Stop an evaluation for good."""
        call = Call("POST", path("/v1/evaluations/{}/cancel", evaluation_id))
        return parse(EvaluationRead, self._transport.send(call))

    def delete(self, evaluation_id: str) -> None:
        """Delete a finished evaluation with its scores."""
        self._transport.send(Call("DELETE", path("/v1/evaluations/{}", evaluation_id)))

    def events(
        self, evaluation_id: str, *, after: int = 0, follow: bool = True
    ) -> Iterator[EventRead]:
        """What happens to an evaluation, in order and without gaps; like ``jobs.events``."""
        address = path("/v1/evaluations/{}/events", evaluation_id)
        return following.events(self._transport, address, after, follow=follow)

    def scores(self, evaluation_id: str, adapter: str | None = None) -> Rows:
        """The scores of every reply by one model, by default the first adapter: one dict a row."""
        call = Call(
            "GET", path("/v1/evaluations/{}/scores", evaluation_id), {"adapter": adapter}
        )  # fmt: skip
        text = (self._transport.send(call)).text
        return [json.loads(line) for line in text.split("\n") if line]

    def worst_pairs(self, evaluation_id: str) -> WorstPairs:
        """By model, the pairs that it orders most wrongly, with their texts."""
        call = Call("GET", path("/v1/evaluations/{}/worst-pairs", evaluation_id))
        return parse(WorstPairs, self._transport.send(call))

    def report(self, evaluation_id: str) -> EvaluationReport:
        """What the report page shows: the evaluation, its worst pairs and its plots (SVG)."""
        call = Call("GET", path("/v1/evaluations/{}/reports/full.json", evaluation_id))
        return parse(EvaluationReport, self._transport.send(call))

    def report_page(self, evaluation_id: str) -> str:
        """The report as one HTML page that needs nothing else."""
        call = Call("GET", path("/v1/evaluations/{}/reports/full.html", evaluation_id))
        return (self._transport.send(call)).text


class Suites:
    """Public benchmarks whose rules the service has."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[SuiteRead]:
        """All of them: what the rule is, where the rows come from, and how to upload them."""
        return Items(self._transport, Call("GET", "/v1/suites"), SuiteRead)


class Comparisons:
    """Two models on the same rows."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(
        self, a: str, b: str, *, a_adapter: str | None = None, b_adapter: str | None = None
    ) -> ComparisonRead:
        """Compare models of two evaluations, or of one; by default the first adapter of each.

        Raises:
            InvalidRequestError: the evaluations are not about the same rows.
        """
        query = {"a": a, "b": b, "a_adapter": a_adapter, "b_adapter": b_adapter}
        call = Call("GET", "/v1/comparisons", query, read_seconds=_COMPARE_SECONDS)
        return parse(ComparisonRead, self._transport.send(call))

    def report_page(
        self, a: str, b: str, *, a_adapter: str | None = None, b_adapter: str | None = None
    ) -> str:
        """The comparison as one HTML page that needs nothing else."""
        query = {"a": a, "b": b, "a_adapter": a_adapter, "b_adapter": b_adapter}
        call = Call("GET", "/v1/comparisons/full.html", query, read_seconds=_COMPARE_SECONDS)
        return (self._transport.send(call)).text
