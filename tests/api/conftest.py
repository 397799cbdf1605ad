"""The fixtures moved to ``tests/conftest.py``; this name goes away."""

from tests.conftest import anonymous, app, client, job, key_for, logged, settings, world

__all__ = ["anonymous", "app", "client", "job", "key_for", "logged", "settings", "world"]
