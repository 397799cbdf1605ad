"""A training run: build, train, resume, stop and evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, PrinterCallback

from app.domain.lifecycle import FailureCode
from app.domain.metric_names import EVAL
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.reward_model.errors import StoppedError, TrainerError
from worker.reward_model.interruption import checked_before_modules
from worker.reward_model.loading import DeviceConfig
from worker.reward_model.scoring import score
from worker.reward_model.token_cache import Ids
from worker.trainer.data.pair_table import PairTable
from worker.trainer.data.prepared import EvalSet
from worker.trainer.diagnosis import diagnose
from worker.trainer.evaluation.metrics import SLICE, compute_metrics
from worker.trainer.evaluation.scores import Scores, score_pairs
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer
from worker.trainer.training.callbacks import (
    CheckpointCallback,
    NonFiniteGradientCallback,
    ProgressCallback,
    non_finite_error,
)
from worker.trainer.training.lora import parameter_digests, trainable_parameters
from worker.trainer.training.outcome import TrainingOutcome
from worker.trainer.training.reward_trainer import (
    PairDataset,
    backend_trainer,
    first_pair,
    plaudit_trainer_class,
    reward_config,
)

#: The scores of each evaluation dataset by the group of its metrics.
AllScores = dict[str, Scores]


@dataclass(frozen=True)
class RunInputs:
    """The data and the plan of a run."""

    plan: TrainingPlan
    device_config: DeviceConfig
    device_bytes: int  # memory of the device
    train_pairs: PairTable
    eval_sets: Sequence[EvalSet]
    checkpoint_seconds: float  # between checkpoints


@dataclass
class TrainingRun:
    """A trainer with its inputs and callbacks."""

    trainer: Any
    inputs: RunInputs
    progress: ProgressCallback
    checkpoints: CheckpointCallback
    untrained_digests: dict[str, str]
    last_evaluation: tuple[int, AllScores] | None = None  # with its step
    evaluates_packed: bool = False  # set when the backend is known

    @property
    def is_chunked(self) -> bool:
        """Whether batches are divided by a memory budget."""
        return isinstance(self.trainer, SharedPrefixRewardTrainer)

    def evaluate(self) -> AllScores:
        """Score the held-out pairs with the current model.

        Raises:
            StoppedError: the supervisor requested a stop before the first step. Later, a stop waits
                for the end: without a checkpoint of this step, more would be lost.
            TrainerError: nan_loss if a score is not finite; it would count as a wrong order.
        """
        found = {}
        step = self.trainer.state.global_step
        for each in self.inputs.eval_sets:
            with nullcontext() if step else checked_before_modules(self._stop_if_wanted):
                scores = score_pairs(each.pairs, self._score_groups)
            found[each.group] = scores
            for pair, margin in zip(each.pairs, scores.margins, strict=True):
                if not np.isfinite(margin):
                    where = f"line {pair.line} of the {each.group} pairs"
                    raise non_finite_error(f"the score of {where}", step)
        self.last_evaluation = (step, found)
        return found

    def _stop_if_wanted(self) -> None:
        if self.checkpoints.channel.is_stop_wanted:
            raise StoppedError(0)

    def _score_groups(self, groups: Sequence[Sequence[Ids]]) -> list[float]:
        if self.evaluates_packed:
            rewards: list[float] = self.trainer.score_groups(
                [[i.tolist() for i in g] for g in groups]
            )
            return rewards
        return score(
            self.trainer.model,
            [ids for group in groups for ids in group],
            pad_token_id=self.inputs.plan.tokenization.pad_token_id,
            bf16=self.inputs.device_config.bf16,
        )

    def final_scores(self) -> AllScores:
        """Return the trained model's scores; reuse those of an evaluation at the last step."""
        outcome = self.outcome()
        if self.last_evaluation and outcome.published_step == outcome.steps:
            step, scores = self.last_evaluation
            if step == outcome.steps:
                return scores
        return self.evaluate()

    def outcome(self) -> TrainingOutcome:
        """Return how training ended and which step's model is published."""
        state, args = self.trainer.state, self.trainer.args
        is_best = args.load_best_model_at_end and state.best_global_step
        return TrainingOutcome(
            steps=state.global_step,
            planned_steps=state.max_steps,
            published_step=state.best_global_step if is_best else state.global_step,
        )

    def metrics(self, scores: AllScores) -> list[dict[str, float]]:
        """Return the metrics of an evaluation by name, a dictionary for each dataset.

        ``left_out`` is the share of the pairs that are not evaluated, because they have more than
        ``max_length`` tokens or cannot be rendered. Slices are measured on ``eval_dataset`` only.
        """
        args, max_length = self.trainer.args, self.inputs.plan.tokenization.max_length
        found = []
        for each in self.inputs.eval_sets:
            metrics = compute_metrics(
                scores[each.group], centering=args.center_rewards_coefficient, seed=args.seed
            )
            metrics |= {"left_out": each.left_out, "max_length": max_length}
            shown = {
                f"{each.group}/{name}": value
                for name, value in metrics.items()
                if each.group == EVAL or not name.startswith(SLICE)
            }
            found.append(shown)
        return found

    def report(self, metrics: Sequence[dict[str, float]]) -> dict[str, float]:
        """Report the metrics of the datasets at the current step; return them together."""
        for of_dataset in metrics:
            self.progress.report(self.trainer.state, of_dataset)
        return {name: value for of_dataset in metrics for name, value in of_dataset.items()}

    def evaluate_and_report(self) -> dict[str, float]:
        """Evaluate during training: report the metrics and return them by name."""
        return self.report(self.metrics(self.evaluate()))


def build_run(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, inputs: RunInputs, channel: Channel
) -> TrainingRun:
    """Build the trainer for a model with its adapter, with the plan's arguments and callbacks."""
    plan = inputs.plan
    progress = ProgressCallback(channel)
    checkpoints = CheckpointCallback(channel, progress, inputs.checkpoint_seconds)
    before = {name: p.detach().clone() for name, p in trainable_parameters(model)}
    callbacks = [progress, NonFiniteGradientCallback(progress), checkpoints]
    if stopping := plan.early_stopping_arguments:
        callbacks.append(
            EarlyStoppingCallback(
                early_stopping_patience=stopping.patience,
                early_stopping_threshold=stopping.min_delta,
            )
        )
    backend_class, backend_arguments = backend_trainer(
        plan, inputs.device_config.device, inputs.device_bytes
    )
    trainer = plaudit_trainer_class(backend_class)(
        model=model,
        args=reward_config(plan, inputs.device_config, model),
        train_dataset=first_pair(inputs.train_pairs),
        # TRL does not evaluate here, but it requires eval pairs.
        eval_dataset=first_pair(inputs.eval_sets[0].pairs) if inputs.eval_sets else None,
        processing_class=tokenizer,
        callbacks=callbacks,
        **backend_arguments,
    )
    trainer.train_dataset = PairDataset(inputs.train_pairs)
    trainer.remove_callback(PrinterCallback)  # otherwise the messages would also be in the log
    checkpoints.trainer = trainer
    for name, parameter in trainable_parameters(model):
        # TRL casts those of a quantised model to bf16, in which small updates are rounded to zero.
        parameter.data = before[name]
    trainer.on_budget_lowered = partial(_report_lower_budget, channel)
    run = TrainingRun(trainer, inputs, progress, checkpoints, parameter_digests(model))
    trainer.evaluate_pairs = run.evaluate_and_report
    return run


def train(run: TrainingRun, resume_from: Path | None) -> None:
    """Train to the end.

    Raises:
        StoppedError: the supervisor requested a stop; a checkpoint has been reported.
        TrainerError: with the step; nan_loss, nothing_trained, or the code of another exception.
    """
    try:
        result = run.trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except TrainerError:
        raise
    except Exception as error:
        failure = diagnose(error)
        failure.step = run.trainer.state.global_step
        raise failure from error
    state = run.trainer.state
    if run.checkpoints.channel.is_stop_wanted and not run.checkpoints.is_finished(state):
        raise StoppedError(state.global_step)
    if not np.isfinite(result.training_loss):
        raise non_finite_error("the loss", state.global_step)
    check_trained(run)


def check_trained(run: TrainingRun) -> None:
    """Reject a run that changed no weight, or left one that is not finite.

    Raises:
        TrainerError: nan_loss or nothing_trained.
    """
    step = run.trainer.state.global_step
    for name, parameter in trainable_parameters(run.trainer.model):
        if not torch.isfinite(parameter).all():
            raise TrainerError(
                FailureCode.NAN_LOSS, f"{name} contains values that are not finite", step
            )
    if parameter_digests(run.trainer.model) == run.untrained_digests:
        raise TrainerError(
            FailureCode.NOTHING_TRAINED,
            f"after {step} steps all weights are equal to the untrained ones: "
            f"{_cause_of_no_change(run)}",
            step,
        )


def _cause_of_no_change(run: TrainingRun) -> str:
    """Return the most probable reason, from the last step, and what to change."""
    progress, args = run.progress, run.trainer.args
    if progress.last_rate == 0:
        return (
            "the learning rate was still 0, as the warm-up of the schedule is as long as the "
            "training; train for more steps, or with less warm-up"
        )
    if progress.last_norm == 0:
        return (
            "the gradients are 0, as both replies of the pairs get the same score; check that the "
            "replies differ in their first max_length tokens"
        )
    return (
        f"the learning rate {args.learning_rate:g} is too small to change a weight; raise "
        "training.learning_rate"
    )


def _report_lower_budget(channel: Channel, budget_bytes: int) -> None:
    channel.send(
        Noted(
            code=WarningCode.MEMORY_ADAPTED,
            message="memory ran out in a training step. The step was repeated in smaller passes, "
            f"which keep at most {budget_bytes >> 20} MiB of activations",
            data={"activation_budget_bytes": budget_bytes},
        )
    )
