"""Choose the training backend: packed rows with shared prefixes, or TRL's stock training step."""

from __future__ import annotations

from typing import Literal

from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.reward_model.errors import TrainerError
from worker.trainer.shared_prefix import check_parity, unsupported_reason
from worker.trainer.training.run import TrainingRun


def choose_backend(run: TrainingRun, channel: Channel) -> Literal["shared_prefix", "stock"]:
    """Use packed rows if they give the model's own rewards, otherwise the stock backend.

    The public field that requests a backend is ``training.engine``.

    Raises:
        TrainerError: engine_unsupported when the plan requires packed rows.
    """
    requested = run.inputs.plan.engine
    if requested == "stock":
        return "stock"
    trainer = run.trainer
    reason = unsupported_reason(trainer.model, trainer.args) or check_parity(trainer).reason
    if reason is None:
        return "shared_prefix"
    if requested == "shared_prefix":
        raise TrainerError(
            FailureCode.ENGINE_UNSUPPORTED,
            f"training.engine is shared_prefix, but this job cannot use it: {reason}; use "
            '"auto" or "stock"',
        )
    trainer.use_stock()
    channel.send(
        Noted(
            code=WarningCode.ENGINE_STOCK,
            message=f"trained with TRL's stock training step: {reason}"[:2000],
            # Encoders are never supported, so that a warning would tell the user nothing.
            is_warning=hasattr(trainer.model.get_base_model(), "score"),
        )
    )
    return "stock"
