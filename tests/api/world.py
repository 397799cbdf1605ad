"""Moved to ``tests/world.py``; this name goes away."""

from tests.world import BASE_MODEL, FACTS, World, claim_when_there, pairs

__all__ = ["BASE_MODEL", "FACTS", "World", "claim_when_there", "pairs"]
