"""Test the device of a trainer, as the fork server starts it."""

from __future__ import annotations

from app.domain.lifecycle import FailureCode
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.trainer import self_test


def run(_order: WorkOrder, _channel: Channel) -> None:
    """Check the device and the disk.

    Raises:
        TrainerError: host_error.
    """
    if problem := self_test.find_problem():
        raise TrainerError(FailureCode.HOST_ERROR, problem)
