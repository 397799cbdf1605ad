"""Choose how to train: on packed rows, in groups of similar length, or exactly as TRL does."""

from __future__ import annotations

from typing import Literal

from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.reward_model.errors import TrainerError
from worker.trainer.shared_prefix import check_disentangled, check_parity, unsupported_reason
from worker.trainer.training.run import TrainingRun

Backend = Literal["shared_prefix", "length_groups", "stock"]


def choose_backend(run: TrainingRun, channel: Channel) -> Backend:
    """Use packed rows if they give the model's own rewards, otherwise groups of similar length.

    The public field that requests a backend is ``training.engine``; "stock" trains as TRL does.

    Raises:
        TrainerError: engine_unsupported when the plan requires packed rows; cuda_oom.
    """
    requested = run.inputs.plan.engine
    if requested == "stock":
        return "stock"
    trainer = run.trainer
    reason = unsupported_reason(trainer.model, trainer.args)
    if reason is None:
        result = check_parity(trainer)
        run.evaluates_packed = result.is_as_exact_as_padding
        reason = result.reason
    if reason is None:
        return "shared_prefix"
    if requested == "shared_prefix":
        raise TrainerError(
            FailureCode.ENGINE_UNSUPPORTED,
            f"training.engine is shared_prefix, but this job cannot use it: {reason}; use "
            '"auto" or "stock"',
        )
    trainer.use_length_groups()
    check_disentangled(trainer)
    channel.send(
        Noted(
            code=WarningCode.ENGINE_STOCK,
            message=f"trained on padded sequences of similar length, not packed rows: {reason}"[
                :2000
            ],
            # Encoders are never supported, so a warning would not help the user.
            is_warning=hasattr(trainer.model.get_base_model(), "score"),
        )
    )
    return "length_groups"
