"""Run the task of a work order and report how it ends."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable

import torch

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed
from app.domain.progress import Stopped as StoppedMessage
from worker.ipc.channel import Channel
from worker.ipc.order import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.trainer import tasks
from worker.trainer.diagnosis import diagnose


def run_task(order: WorkOrder, channel: Channel) -> int:
    """Run the task, send a message about its end, and return the exit status."""
    torch.set_num_threads(order.threads)
    try:
        _load_task(order.action)(order, channel)
    except StoppedError as stopped:
        channel.send(StoppedMessage(step=stopped.step))
        return EXIT_STOPPED
    except BaseException as error:  # noqa: BLE001 - all are reported to the supervisor
        failure = diagnose(error, order)
        if not isinstance(error, TrainerError) or error.__cause__:
            traceback.print_exc(file=sys.stderr)
        channel.send(Failed(code=failure.code, detail=failure.detail[:8000], step=failure.step))
        return EXIT_FAILED
    return EXIT_DONE


def _load_task(action: str) -> Callable[[WorkOrder, Channel], None]:
    """Import the module of this task only: an inspection needs neither TRL nor datasets.

    Raises:
        TrainerError: this version has no such task.
    """
    name = f"{tasks.__name__}.{action}"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    run: Callable[[WorkOrder, Channel], None] | None = getattr(module, "run", None)
    if run is None:
        raise TrainerError(FailureCode.HOST_ERROR, f"this worker's version has no task {action!r}")
    return run
