"""Run orders that must fail."""

from __future__ import annotations

from app.domain.progress import Failed, Packaged
from tests.model_factories.trainer_process import RecordingChannel
from worker.ipc.order import EXIT_FAILED, WorkOrder
from worker.trainer.run_task import run_task


def run_to_failure(order: WorkOrder, channel: RecordingChannel) -> Failed:
    """Run an order in this process; return its failure message, which must be the last one."""
    assert run_task(order, channel) == EXIT_FAILED
    assert not channel.of(Packaged)
    message = channel.messages[-1]
    assert isinstance(message, Failed)
    return message
