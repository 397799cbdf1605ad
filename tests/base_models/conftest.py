"""Fixtures of the base model tests."""

from tests.base_models.model_sources import hub, index

__all__ = ["hub", "index"]
