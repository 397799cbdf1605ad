"""Fixtures of the job queue."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from app.core.settings import Settings
from app.job_queue.lease import WriteContext
from tests.job_queue.factories import claim, queue_job


@pytest.fixture
def context(engine: Engine, settings: Settings) -> WriteContext:
    """The write context of a new, claimed job."""
    queue_job(engine)
    return claim(engine, settings)
