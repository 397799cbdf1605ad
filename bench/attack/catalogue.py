"""All attacks: importing their modules registers them."""

from __future__ import annotations

from bench.attack import attacks, tenants

__all__ = ["ATTACKS", "NEEDS_REDIS", "tenants"]

ATTACKS = attacks.ATTACKS
#: Attacks that are skipped if the service runs without Redis.
NEEDS_REDIS = frozenset({"frozen_redis"})
