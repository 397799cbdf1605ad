# ruff: noqa: ARG002 - Trainer hands everything to everybody
"""What happens at the steps of a run: progress, checkpoints, the wish to stop, bad numbers."""

from __future__ import annotations

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
from worker.trainer.training.checkpoints import complete, prune

#: Trainer's names of what it logs at a step, to ours.
LOGGED = {
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


class Reporter(TrainerCallback):
    """Says what was logged, and keeps none of it: checkpoints stay small."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.last: dict[str, float] = {}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Pass one step's metrics on."""
        state.log_history.clear()
        logs: dict[str, float] = more["logs"]
        if "loss" in logs:
            self.last = {ours: logs[name] for name, ours in LOGGED.items() if name in logs}
            self.say(state, self.last)

    def say(self, state: TrainerState, metrics: dict[str, float]) -> None:
        """One step message."""
        self.channel.say(
            Stepped(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch or 0.0,
                metrics=finite(metrics),
            )
        )


class NonFiniteGradientCallback(TrainerCallback):
    """Stops a run whose gradients are no numbers: the next step would ruin every weight."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Look at the gradients after clipping, which keeps NaN and turns infinity into it."""
        model: torch.nn.Module = more["model"]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise nan_loss("the gradient norm", state.global_step + 1)


class Checkpointer(TrainerCallback):
    """Saves when the plan, the clock, a new best model or the supervisor says so."""

    def __init__(self, channel: Channel, reporter: Reporter, seconds: float) -> None:
        self.channel = channel
        self.reporter = reporter
        self.seconds = seconds
        self.same: dict[str, Any] = {}  # what a run that resumes from here must share
        self.before: dict[str, float] = {}  # metrics of the untrained model
        self.trainer: Any = None  # set when it is built
        self._saved: list[Path] = []
        self._last_save = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Ask for a checkpoint when its time has come; stop after one when that is wanted."""
        if self.channel.is_stop_wanted:
            control.should_save = control.should_training_stop = True
        if time.monotonic() - self._last_save >= self.seconds:
            control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Keep a model that is better than all before; Trainer compares the same way after us."""
        loss = more["metrics"]["eval_loss"]
        if args.load_best_model_at_end and (state.best_metric is None or loss < state.best_metric):
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Complete the checkpoint that was just written, and say where it is."""
        directory = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else None
        metrics = finite({**self.before, **self.reporter.last})
        files = complete(
            directory,
            best=best,
            step=state.global_step,
            is_finished=self.is_finished(state),
            same=self.same,
            tokens=self.trainer._total_train_tokens,
            metrics=metrics,
        )
        self.channel.say(
            CheckpointSaved(
                step=state.global_step,
                directory=directory.name,
                files=files,
                is_best=best is not None and best.name == directory.name,
                metrics=metrics,
            )
        )
        self._saved = [p for p in self._saved if p.name != directory.name] + [directory]
        prune(self._saved, [best] if best else [])
        self._saved = [path for path in self._saved if path.exists()]
        self._last_save = time.monotonic()

    def is_finished(self, state: TrainerState) -> bool:
        """Whether training is over by itself: the last step is done, or patience has run out."""
        if state.global_step >= state.max_steps:
            return True
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.trainer.callback_handler.callbacks  # a resume makes new ones
            if isinstance(callback, EarlyStoppingCallback)
        )


def nan_loss(what: str, step: int) -> TrainerError:
    """The failure for a loss or gradient that is no number."""
    return TrainerError(FailureCode.NAN_LOSS, f"{what} at step {step} is not a finite number", step)
