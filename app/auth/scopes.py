"""The scopes of API keys, in a module that needs no database: commands import it at once."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A permission of an API key within its tenant. ``admin`` includes all others."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    SCORES_WRITE = "scores:write"
    ADMIN = "admin"
