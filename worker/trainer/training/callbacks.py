# ruff: noqa: ARG002 - Trainer passes all arguments to every callback
"""Trainer callbacks: report progress, save checkpoints, stop on request and on bad numbers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from app.domain.lifecycle import FailureCode
from app.domain.progress import CheckpointSaved, Stepped
from worker.ipc.channel import Channel, finite
from worker.reward_model.errors import TrainerError
from worker.trainer.training.checkpoints import (
    CheckpointState,
    finalize_checkpoint,
    remove_old_checkpoints,
)

#: Names in Trainer's logs → names of our metrics.
METRIC_NAMES = {
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "margin": "train/margin",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "num_tokens": "train/tokens",
    "mean_reward": "train/reward_mean",
    "min_reward": "train/reward_min",
    "max_reward": "train/reward_max",
}


class ProgressCallback(TrainerCallback):
    """Sends what Trainer logs and clears its history, so that checkpoints stay small."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.last_metrics: dict[str, float] = {}
        #: Of the last step, which need not be a logged one.
        self.last_rate: float | None = None
        self.last_norm: float | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Request a log of the last step: a run shorter than ``logging_steps`` would have none.

        Steps that are not logged are reported too: their progress is shown.
        """
        if state.global_step >= state.max_steps:
            control.should_log = True
        if not control.should_log:
            self.report(state, {})

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Log the last step before an early stop or a pause, which are decided after its log."""
        if control.should_training_stop:
            control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Send the metrics of one step."""
        state.log_history.clear()
        logs: dict[str, float] = more["logs"]
        if "loss" in logs:
            self.last_metrics = {
                ours: logs[name] for name, ours in METRIC_NAMES.items() if name in logs
            }
            self.report(state, self.last_metrics)

    def report(self, state: TrainerState, metrics: dict[str, float]) -> None:
        """Send a step message."""
        self.channel.send(
            Stepped(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch or 0.0,
                metrics=finite(metrics),
            )
        )


class NonFiniteGradientCallback(TrainerCallback):
    """Stops a run whose gradients are not finite, before a step makes every weight NaN."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress = progress

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Check the gradients after clipping, which keeps NaN and turns infinity into NaN."""
        model: torch.nn.Module = more["model"]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if not math.isfinite(norm):
            raise non_finite_error("the gradient norm", state.global_step + 1)
        self.progress.last_norm = norm
        self.progress.last_rate = max(group["lr"] for group in more["optimizer"].param_groups)


class CheckpointCallback(TrainerCallback):
    """Saves checkpoints: by the plan, by the clock, for a new best model, and before a stop."""

    def __init__(self, channel: Channel, progress: ProgressCallback, seconds: float) -> None:
        self.channel = channel
        self.progress = progress
        self.seconds = seconds  # between checkpoints
        self.resume_fingerprint: dict[str, Any] = {}  # set when the backend is known
        self.untrained_metrics: dict[str, float] = {}
        self.trainer: Any = None  # set when the trainer is built
        self._saved: list[Path] = []
        self._last_save = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Request a checkpoint when it is due; on a stop request, one followed by the end."""
        if self.channel.is_stop_wanted:
            control.should_save = control.should_training_stop = True
        if time.monotonic() - self._last_save >= self.seconds:
            control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Save a model that is better than all before; Trainer makes the same comparison later."""
        if not args.load_best_model_at_end:
            return
        loss = more["metrics"][str(args.metric_for_best_model)]
        if state.best_metric is None or loss < state.best_metric:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Finalise the checkpoint that was just written, and report it."""
        directory = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else None
        metrics = finite({**self.untrained_metrics, **self.progress.last_metrics})
        checkpoint = CheckpointState(
            step=state.global_step,
            is_finished=self.is_finished(state),
            resume_fingerprint=self.resume_fingerprint,
            tokens=self.trainer._total_train_tokens,
            metrics=metrics,
            activation_budget_bytes=getattr(self.trainer, "memory_budget_bytes", None),
        )
        files = finalize_checkpoint(directory, checkpoint, best)
        self.channel.send(
            CheckpointSaved(
                step=state.global_step,
                directory=directory.name,
                files=files,
                is_best=best is not None and best.name == directory.name,
                metrics=metrics,
            )
        )
        self._saved = [p for p in self._saved if p.name != directory.name] + [directory]
        remove_old_checkpoints(self._saved, keep=[best] if best else [])
        self._saved = [path for path in self._saved if path.exists()]
        self._last_save = time.monotonic()

    def is_finished(self, state: TrainerState) -> bool:
        """Whether training has ended by itself: after the last step or by early stopping."""
        if state.global_step >= state.max_steps:
            return True
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.trainer.callback_handler.callbacks  # a resume creates new ones
            if isinstance(callback, EarlyStoppingCallback)
        )


def non_finite_error(what: str, step: int) -> TrainerError:
    """Return the error for a loss, gradient or score that is not finite."""
    # Nothing is trained yet, so neither the learning rate nor the data can be the cause.
    cause = "" if step else ": the weights of the base model are not finite, or overflow"
    detail = f"{what} at step {step} is not a finite number{cause}"
    return TrainerError(FailureCode.NAN_LOSS, detail, step)
