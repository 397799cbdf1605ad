"""Handlers of job kinds: one module for each action, with a function ``run(steps)``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from app.job_queue.kinds import JobKind, UnknownKindError
from worker.supervisor.job_steps import JobSteps


def load_handler(kind: JobKind) -> Callable[[JobSteps], None]:
    """Return the function that runs jobs of a kind.

    Raises:
        UnknownKindError: this worker's version has no handler for them.
    """
    name = f"{__name__}.{kind.action}"
    if importlib.util.find_spec(name) is None:
        raise UnknownKindError(f"this worker has no handler for jobs of kind {kind.name!r}")
    run: Callable[[JobSteps], None] = importlib.import_module(name).run
    return run
