"""The client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, Unpack

from plaudit import params
from plaudit._async.adapters import AsyncAdapters
from plaudit._async.concurrency import Rewards
from plaudit._async.datasets import AsyncDatasets
from plaudit._async.evaluations import AsyncComparisons, AsyncEvaluations, AsyncSuites
from plaudit._async.jobs import AsyncJobs
from plaudit._async.operations import (
    AsyncApiKeys,
    AsyncAuditLog,
    AsyncBaseModels,
    AsyncQueue,
    AsyncWorkers,
)
from plaudit._async.score_batches import AsyncScoreBatches
from plaudit._async.scores import make_reward_function, send_scores
from plaudit._async.transport import AsyncTransport
from plaudit._async.usage import AsyncUsageLog
from plaudit._async.webhooks import AsyncWebhooks
from plaudit._calls import Call, parse, path
from plaudit._config import READ_SECONDS, Config, Patience
from plaudit._scores import Model, ScoreOptions, score_body
from plaudit.models import Health, ProblemType, Readiness, ScoreResponse
from plaudit.retries import OnRetry, Retries


class AsyncPlaudit:
    """One service and one key. A context manager, which closes its connections.

    Args:
        url: of the service; default: ``PLAUDIT_URL``.
        api_key: ``plk_…``; default: ``PLAUDIT_API_KEY``.
        timeout: seconds in which the service sends something; waiting for a job, uploads and
            streams have limits of their own.
        retries: when requests are sent again.
        on_retry: called before each wait, with its reason and length.

    Raises:
        ConfigurationError: no address or no key, or one that cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = READ_SECONDS,
        retries: Retries | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        config = Config.of(url, api_key, Patience(timeout, retries or Retries(), on_retry))
        self._transport = AsyncTransport(config)
        self.jobs = AsyncJobs(self._transport)
        self.datasets = AsyncDatasets(self._transport)
        self.adapters = AsyncAdapters(self._transport)
        self.score_batches = AsyncScoreBatches(self._transport)
        self.evaluations = AsyncEvaluations(self._transport)
        self.suites = AsyncSuites(self._transport)
        self.comparisons = AsyncComparisons(self._transport)
        self.base_models = AsyncBaseModels(self._transport)
        self.queue = AsyncQueue(self._transport)
        self.workers = AsyncWorkers(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.api_keys = AsyncApiKeys(self._transport)
        self.audit = AsyncAuditLog(self._transport)
        self.usage = AsyncUsageLog(self._transport)

    @property
    def url(self) -> str:
        """Of the service."""
        return self._transport.config.url

    async def score(
        self,
        model: Model,
        *,
        groups: Sequence[params.ScoreGroup] | None = None,
        inputs: Sequence[params.ScoreInput] | None = None,
        if_score_spec: str | None = None,
        **options: Unpack[ScoreOptions],
    ) -> ScoreResponse:
        """Score replies: all of them, or none.

        Args:
            model: id of an adapter, or an ensemble of several.
            groups: prompts, each with its replies; the prompt is computed once.
            inputs: single texts, instead of groups.
            if_score_spec: fail if the model's ``score_spec`` is another one.
            options: ``normalize``, ``truncation``, ``max_length``, ``deterministic``, ``return_``.

        Raises:
            InvalidRequestError: names the text that is at fault.
            APIError: its ``code`` is score_spec_changed if the model is not the one you expect.
        """
        body = score_body(model, {"groups": groups, "inputs": inputs, **options})
        return await send_scores(self._transport, body, if_score_spec)

    def reward_function(
        self, model: Model, **options: Unpack[ScoreOptions]
    ) -> Callable[..., Rewards]:
        """A reward function for TRL's GRPOTrainer and RLOOTrainer, ``reward_funcs=[…]``.

        A failure is raised: it never becomes a reward.
        """
        return make_reward_function(self._transport, score_body(model, dict(options)))

    async def health(self) -> Health:
        """That the API answers."""
        return parse(Health, await self._transport.send(Call("GET", "/healthz")))

    async def readiness(self) -> Readiness:
        """Whether what the service needs is there, and how many workers are.

        Raises:
            UnavailableError: something is away.
        """
        return parse(Readiness, await self._transport.send(Call("GET", "/readyz")))

    async def explain_problem(self, code: str) -> ProblemType:
        """What an error's ``code`` means and what to do about it."""
        call = Call("GET", path("/problems/{}", code))
        return parse(ProblemType, await self._transport.send(call))

    async def metrics(self) -> str:
        """The service's own metrics, as Prometheus reads them."""
        return (await self._transport.send(Call("GET", "/metrics"))).text

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"
