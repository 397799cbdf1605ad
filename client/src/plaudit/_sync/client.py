# Generated from ../_async/client.py by `make client-models`. Do not edit.
"""The client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, Unpack

from plaudit import params
from plaudit._calls import Call, parse, path
from plaudit._config import READ_SECONDS, Config, Patience
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
        """Of the service."""
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
        return send_scores(self._transport, body, if_score_spec)

    def reward_function(
        self, model: Model, **options: Unpack[ScoreOptions]
    ) -> Callable[..., Rewards]:
        """A reward function for TRL's GRPOTrainer and RLOOTrainer, ``reward_funcs=[…]``.

        A failure is raised: it never becomes a reward.
        """
        return make_reward_function(self._transport, score_body(model, dict(options)))

    def health(self) -> Health:
        """That the API answers."""
        return parse(Health, self._transport.send(Call("GET", "/healthz")))

    def readiness(self) -> Readiness:
        """Whether what the service needs is there, and how many workers are.

        Raises:
            UnavailableError: something is away.
        """
        return parse(Readiness, self._transport.send(Call("GET", "/readyz")))

    def explain_problem(self, code: str) -> ProblemType:
        """What an error's ``code`` means and what to do about it."""
        call = Call("GET", path("/problems/{}", code))
        return parse(ProblemType, self._transport.send(call))

    def metrics(self) -> str:
        """The service's own metrics, as Prometheus reads them."""
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
