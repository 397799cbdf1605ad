"""Fixtures of the base model tests."""

from model_sources import hub, index

__all__ = ["hub", "index"]
