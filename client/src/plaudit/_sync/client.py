# Generated from ../_async/client.py by `make client-models`. Do not edit.
"""The client class: configuration, resources, scoring and health."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, Unpack

from plaudit import params
from plaudit._calls import Call, parse, path
from plaudit._config import READ_SECONDS, Config, RequestPolicy
from plaudit._scores import Model, ScoreOptions, score_body
from plaudit._sync.adapters import Adapters
from plaudit._sync.concurrency import Rewards
from plaudit._sync.datasets import Datasets
from plaudit._sync.evaluations import Comparisons, Evaluations, Suites
from plaudit._sync.jobs import Jobs
from plaudit._sync.operations import (
    ApiKeys,
    AuditLog,
    BaseModels,
    Queue,
    Workers,
)
from plaudit._sync.score_batches import ScoreBatches
from plaudit._sync.scores import make_reward_function, send_scores
from plaudit._sync.transport import Transport
from plaudit._sync.usage import UsageLog
from plaudit._sync.webhooks import Webhooks
from plaudit.models import Health, ProblemType, Readiness, ScoreResponse
from plaudit.retries import OnRetry, Retries


class Plaudit:
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
        self._transport = Transport(config)
        self.jobs = Jobs(self._transport)
        self.datasets = Datasets(self._transport)
        self.adapters = Adapters(self._transport)
        self.score_batches = ScoreBatches(self._transport)
        self.evaluations = Evaluations(self._transport)
        self.suites = Suites(self._transport)
        self.comparisons = Comparisons(self._transport)
        self.base_models = BaseModels(self._transport)
        self.queue = Queue(self._transport)
        self.workers = Workers(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.api_keys = ApiKeys(self._transport)
        self.audit = AuditLog(self._transport)
        self.usage = UsageLog(self._transport)

    @property
    def url(self) -> str:
        """URL of the service."""
        return self._transport.config.url

    def score(
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
        return send_scores(self._transport, body, if_score_spec)

    def reward_function(
        self, model: Model, **options: Unpack[ScoreOptions]
    ) -> Callable[..., Rewards]:
        """Return a reward function for TRL's GRPOTrainer and RLOOTrainer (``reward_funcs=[…]``).

        The function raises an exception if scoring fails; it never returns a default reward.
        """
        return make_reward_function(self._transport, score_body(model, dict(options)))

    def health(self) -> Health:
        """Check that the API responds (liveness). Needs no valid API key."""
        return parse(Health, self._transport.send(Call("GET", "/healthz")))

    def readiness(self) -> Readiness:
        """Check that the service can reach its dependencies, and return the number of workers.

        Raises:
            UnavailableError: a dependency, such as the database, is unavailable.
        """
        return parse(Readiness, self._transport.send(Call("GET", "/readyz")))

    def explain_problem(self, code: str) -> ProblemType:
        """Return what the ``code`` of an error means and what to do about it."""
        call = Call("GET", path("/problems/{}", code))
        return parse(ProblemType, self._transport.send(call))

    def metrics(self) -> str:
        """Return the metrics of the service in the Prometheus text format.

        Raises:
            UnauthorizedError: the operator requires a metrics token; the client sends its API key.
        """
        return (self._transport.send(Call("GET", "/metrics"))).text

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"
