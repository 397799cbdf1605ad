"""An order carried out: inspect, train or merge, from the first message to the exit status."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable

import torch

from app.domain.progress import Failed
from app.domain.progress import Stopped as StoppedMessage
from worker.ipc.channel import Channel
from worker.ipc.order import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.trainer.diagnosis import diagnose


def run_task(order: WorkOrder, channel: Channel) -> int:
    """Do what the order says; every way it can end is a message and an exit status."""
    torch.set_num_threads(order.threads)
    try:
        _task(order.action)(order, channel)
    except StoppedError as stopped:
        channel.say(StoppedMessage(step=stopped.step))
        return EXIT_STOPPED
    except BaseException as error:  # noqa: BLE001 - the supervisor hears of all of them
        failure = diagnose(error)
        if not isinstance(error, TrainerError) or error.__cause__:
            traceback.print_exc(file=sys.stderr)
        channel.say(Failed(code=failure.code, detail=failure.detail[:8000], step=failure.step))
        return EXIT_FAILED
    return EXIT_DONE


def _task(action: str) -> Callable[[WorkOrder, Channel], None]:
    """Import the module of one task only: an inspection needs neither trl nor datasets."""
    run: Callable[[WorkOrder, Channel], None]
    run = importlib.import_module(f"worker.trainer.tasks.{action}").run
    return run
