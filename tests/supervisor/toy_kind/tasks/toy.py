"""The task of the toy kind: add the numbers of the spec, or fail if the spec says so."""

from __future__ import annotations

import os

from app.domain.lifecycle import FailureCode
from app.domain.progress import Reported
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError


def run(order: WorkOrder, channel: Channel) -> None:
    """Report the sum and the process that made it."""
    assert order.spec is not None
    numbers = order.spec["numbers"]
    assert isinstance(numbers, list)
    if not numbers:
        raise TrainerError(FailureCode.HUB_UNAVAILABLE, "there is nothing to add")
    document = {"sum": sum(int(str(number)) for number in numbers), "pid": os.getpid()}
    channel.send(Reported(name="evaluation", document=document))
