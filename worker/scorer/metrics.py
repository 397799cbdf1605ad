"""Metrics of a scorer process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ScorerMetrics:
    """The metrics of one process. ``registry`` is what /metrics renders."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.prompt_tokens = Counter(
            "plaudit_scorer_tokens", "Tokens of the scored texts.", registry=self.registry
        )
        self.computed_tokens = Counter(
            "plaudit_scorer_computed_tokens",
            "Tokens that were computed; shared prompts count once.",
            registry=self.registry,
        )
        self.batch_fill = Histogram(
            "plaudit_scorer_batch_fill",
            "Tokens of a batch as a share of the bound.",
            buckets=(0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "plaudit_scorer_queue_seconds",
            "Age of a request when its last part is computed.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "plaudit_scorer_waiting", "Requests in the queue.", registry=self.registry
        )
        self.adapters = Gauge(
            "plaudit_scorer_adapters", "Adapters in memory.", registry=self.registry
        )
        self.resident_bytes = Gauge(
            "plaudit_scorer_resident_bytes",
            "Bytes of the base models and adapters in memory.",
            registry=self.registry,
        )
