"""The client class: configuration, resources, scoring and health."""

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
from plaudit._config import READ_SECONDS, Config, RequestPolicy
from plaudit._scores import Model, ScoreOptions, score_body
from plaudit.models import Health, ProblemType, Readiness, ScoreResponse
from plaudit.retries import OnRetry, Retries


class AsyncPlaudit:
    """Client of a Plaudit service. A context manager: leaving the block closes the connections.

    Args:
        url: URL of the service; default: the environment variable ``PLAUDIT_URL``.
        api_key: ``plk_…``; default: the environment variable ``PLAUDIT_API_KEY``.
        timeout: seconds without a byte from the service after which a request fails. Waiting for a
            job, uploads, scoring and streams have longer timeouts of their own.
        retries: limits of retries; default: ``Retries()``.
        on_retry: called with a ``Retry`` before the client waits for each retry.

    Raises:
        ConfigurationError: the URL or the key is missing or invalid.
        ValueError: ``timeout`` is not positive.
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
        config = Config.of(url, api_key, RequestPolicy(timeout, retries or Retries(), on_retry))
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
        """URL of the service."""
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
        """Score replies. If one of them is invalid, the whole request fails.

        Args:
            model: id of an adapter, or an ensemble of several.
            groups: prompts, each with its replies; the prompt is computed once per group.
            inputs: single texts; pass either ``groups`` or ``inputs``.
            if_score_spec: fail unless the model's ``score_spec`` equals this value.
            options: ``normalize``, ``truncation``, ``max_length``, ``deterministic`` and
                ``return_``, as in ``params.ScoreRequest``.

        Raises:
            InvalidRequestError: a text is invalid; ``errors`` names it.
            APIError: with the code ``score_spec_changed`` if ``if_score_spec`` does not match.
        """
        body = score_body(model, {"groups": groups, "inputs": inputs, **options})
        return await send_scores(self._transport, body, if_score_spec)

    def reward_function(
        self, model: Model, **options: Unpack[ScoreOptions]
    ) -> Callable[..., Rewards]:
        """Return a reward function for TRL's GRPOTrainer and RLOOTrainer (``reward_funcs=[…]``).

        The function raises an exception if scoring fails; it never returns a default reward.
        """
        return make_reward_function(self._transport, score_body(model, dict(options)))

    async def health(self) -> Health:
        """Check that the API responds (liveness). Needs no valid API key."""
        return parse(Health, await self._transport.send(Call("GET", "/healthz")))

    async def readiness(self) -> Readiness:
        """Check that the service can reach its dependencies, and return the number of workers.

        Raises:
            UnavailableError: a dependency, such as the database, is unavailable.
        """
        return parse(Readiness, await self._transport.send(Call("GET", "/readyz")))

    async def explain_problem(self, code: str) -> ProblemType:
        """Return what the ``code`` of an error means and what to do about it."""
        call = Call("GET", path("/problems/{}", code))
        return parse(ProblemType, await self._transport.send(call))

    async def metrics(self) -> str:
        """Return the metrics of the service in the Prometheus text format.

        Raises:
            UnauthorizedError: the operator requires a metrics token; the client sends its API key.
        """
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
