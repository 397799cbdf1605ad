"""Verify packaged files: a fresh process must score their probes as the trainer did."""

from __future__ import annotations

from pathlib import Path

from app.domain.lifecycle import FailureCode
from app.domain.progress import Verified
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import device_config_for
from worker.trainer.diagnosis import diagnose
from worker.trainer.export.certificate import certify, check_certificate


def run(order: WorkOrder, channel: Channel) -> None:
    """Certify the files of another task and send ``verified``.

    Raises:
        TrainerError: score_mismatch if the files are wrong; other codes (out_of_memory, disk_full,
            …) if the machine failed, which says nothing about the files.
    """
    if order.adapter is None:
        raise TrainerError(FailureCode.INTERNAL, "the order to verify has no files")
    device = "cpu" if order.plan is None else device_config_for(order.plan).device
    base = None if order.is_merged else Path(order.model_dir)
    try:
        certificate = certify(Path(order.adapter), base, device)
    except TrainerError:
        raise
    except Exception as error:
        failure = diagnose(error)
        is_of_files = failure.code is FailureCode.INTERNAL  # not a failure of the machine
        raise TrainerError(
            FailureCode.SCORE_MISMATCH if is_of_files else failure.code,
            f"the packaged files could not be loaded and scored: {failure.detail}"[:8000],
        ) from error
    check_certificate(certificate)
    channel.send(Verified(certificate=certificate))
