"""All attacks: importing their modules registers them."""

from __future__ import annotations

from bench.attack import attacks, tenants

__all__ = ["ATTACKS", "tenants"]

ATTACKS = attacks.ATTACKS
