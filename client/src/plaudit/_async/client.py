"""The client."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from plaudit._async.adapters import AsyncAdapters
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
from plaudit._async.transport import AsyncTransport
from plaudit._async.usage import AsyncUsageLog
from plaudit._async.webhooks import AsyncWebhooks
from plaudit._calls import Call, parse, path
from plaudit._config import READ_SECONDS, Config, Patience
from plaudit.models import Health, ProblemType, Readiness
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
