"""One run of TRL's RewardTrainer: how it is built, started, stopped and resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerControl,
)
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from app.domain.lifecycle import FailureCode
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.reward_model.errors import Stopped, TrainerError
from worker.reward_model.loading import DeviceConfig, trainable
from worker.reward_model.scoring import score
from worker.trainer.data.pairs import Pair
from worker.trainer.diagnosis import diagnose
from worker.trainer.memory_estimate import (
    checkpoint_above_bytes,
    checkpoints_activations,
)
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer, probe, unsupported_reason
from worker.trainer.training.callbacks import (
    Checkpointer,
    NonFiniteGradientCallback,
    Reporter,
    nan_loss,
)
from worker.trainer.training.evaluation import Scores, metrics

OUTPUT = "."  # checkpoints lie in the work directory itself, by a name that every attempt shares


@dataclass
class Run:
    """A trainer with its data and its ways to talk."""

    trainer: Any
    plan: TrainingPlan
    numerics: DeviceConfig
    eval_pairs: Sequence[Pair]
    reporter: Reporter
    checkpointer: Checkpointer
    untrained: dict[str, str]
    latest: tuple[int, Scores] | None = None  # the last evaluation and its step

    def evaluate(self) -> Scores:
        """Score the held-out pairs with the model as it is.

        Raises:
            TrainerFailure: nan_loss; as no number a score would count as a wrong one.
        """
        scores = score_pairs(self.trainer.model, self.eval_pairs, self.plan, self.numerics)
        step = self.trainer.state.global_step
        broken = [
            p.line
            for p, m in zip(self.eval_pairs, scores.margins, strict=True)
            if not np.isfinite(m)
        ]
        if broken:
            raise nan_loss(f"the score of line {broken[0]} of the held-out pairs", step)
        self.latest = (step, scores)
        return scores

    def final_scores(self) -> Scores:
        """Of the trained model; not computed again where training ended with an evaluation."""
        state = self.trainer.state
        is_best = not self.trainer.args.load_best_model_at_end
        if state.global_step == state.best_global_step:
            is_best = True
        if self.latest and self.latest[0] == state.global_step and is_best:
            return self.latest[1]
        return self.evaluate()

    def metrics(self, scores: Scores) -> dict[str, float]:
        """Of an evaluation, by bare name."""
        return metrics(
            scores,
            centering=self.trainer.args.center_rewards_coefficient,
            seed=self.trainer.args.seed,
        )


def build_run(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: TrainingPlan,
    numerics: DeviceConfig,
    train_pairs: Sequence[Pair],
    eval_pairs: Sequence[Pair],
    channel: Channel,
    checkpoint_seconds: float,
    device_bytes: int,
) -> Run:
    """Spell the plan's arguments out for TRL and put its trainer together."""
    reporter = Reporter(channel)
    checkpointer = Checkpointer(channel, reporter, checkpoint_seconds)
    before = {name: p.detach().clone() for name, p in trainable(model)}
    callbacks = [reporter, NonFiniteGradientCallback(), checkpointer]
    if plan.early_stopping:
        callbacks.append(
            EarlyStoppingCallback(
                early_stopping_patience=int(str(plan.early_stopping["patience"])),
                early_stopping_threshold=float(str(plan.early_stopping["min_delta"])),
            )
        )
    engine, more = RewardTrainer, {}
    if plan.engine != "stock":
        engine = SharedPrefixRewardTrainer
        more = {
            "may_checkpoint": plan.gradient_checkpointing is not False,
            "checkpoint_above_bytes": checkpoint_above_bytes(plan, numerics.device, device_bytes),
        }
    trainer = _trainer_class(engine)(
        model=model,
        args=reward_config(plan, numerics, model),
        train_dataset=dataset(train_pairs),
        eval_dataset=dataset(eval_pairs) if eval_pairs else None,
        processing_class=tokenizer,
        callbacks=callbacks,
        **more,
    )
    trainer.remove_callback(PrinterCallback)  # every message would be in the log as well
    checkpointer.trainer = trainer
    for name, parameter in trainable(model):
        parameter.data = before[name]  # TRL casts a quantised model's to bf16, which freezes most
    run = Run(trainer, plan, numerics, eval_pairs, reporter, checkpointer, untrained=digests(model))
    trainer.run = run
    return run


def choose_engine(run: Run, channel: Channel) -> str:
    """Train on packed rows where they give this model's own rewards, else as TRL does.

    Raises:
        TrainerFailure: engine_unsupported when the plan insists on packed rows.
    """
    if run.plan.engine == "stock":
        return "stock"
    trainer = run.trainer
    reason = unsupported_reason(trainer.model, trainer.args) or probe(trainer).reason
    if reason is None:
        return "shared_prefix"
    if run.plan.engine == "shared_prefix":
        raise TrainerError(FailureCode.ENGINE_UNSUPPORTED, reason)
    trainer.use_stock()
    channel.say(
        Noted(
            code=WarningCode.ENGINE_STOCK,
            message=f"trained with TRL's own steps: {reason}"[:2000],
            # An encoder never can: that is no news for whoever submits one.
            is_warning=hasattr(trainer.model.get_base_model(), "score"),
        )
    )
    return "stock"


def reward_config(plan: TrainingPlan, numerics: DeviceConfig, model: PeftModel) -> RewardConfig:
    """The plan's arguments and what depends on this machine."""
    _, reward = plan.kwargs()
    base = model.get_base_model()
    return RewardConfig(
        **reward,
        output_dir=OUTPUT,
        use_cpu=numerics.device == "cpu",
        bf16=numerics.bf16,
        activation_checkpointing=checkpoints_activations(
            plan.gradient_checkpointing,
            numerics.device,
            can_checkpoint=bool(base.supports_gradient_checkpointing),
        ),
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
        dataloader_pin_memory=numerics.device == "cuda",
    )


def dataset(pairs: Sequence[Pair]) -> Dataset:
    """The columns that TRL takes as already tokenised; a margin only if any pair has one."""
    columns: dict[str, Any] = {
        "chosen_ids": [pair.chosen for pair in pairs],
        "rejected_ids": [pair.rejected for pair in pairs],
    }
    if any(pair.margin is not None for pair in pairs):
        columns["margin"] = [pair.margin or 0.0 for pair in pairs]
    return Dataset.from_dict(columns)


def train(run: Run, resume_from: Path | None) -> None:
    """Train to the end.

    Raises:
        Stopped: the supervisor wanted it; a checkpoint has been said.
        TrainerFailure: with the step; nan_loss, nothing_trained, or what another error is.
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
    if run.checkpointer.channel.is_stop_wanted and not run.checkpointer.is_finished(state):
        raise Stopped(state.global_step)
    if not np.isfinite(result.training_loss):
        raise nan_loss("the loss", state.global_step)
    check_trained(run)


def check_trained(run: Run) -> None:
    """Refuse a run that took no step or moved nothing; every trained number must be finite."""
    step = run.trainer.state.global_step
    for name, parameter in trainable(run.trainer.model):
        if not torch.isfinite(parameter).all():
            raise TrainerError(
                FailureCode.NAN_LOSS, f"{name} holds values that are not finite", step
            )
    if digests(run.trainer.model) == run.untrained:
        raise TrainerError(
            FailureCode.NOTHING_TRAINED,
            f"after {step} steps no weight differs from the untrained one",
            step,
        )


def score_pairs(
    model: torch.nn.Module, pairs: Sequence[Pair], plan: TrainingPlan, numerics: DeviceConfig
) -> Scores:
    """Rewards of both replies of every pair, on the model as it is."""
    rewards = score(
        model,
        [ids for pair in pairs for ids in (pair.chosen, pair.rejected)],
        pad_token_id=plan.tokenization.pad_token_id,
        batch_size=2 * int(str(plan.reward["per_device_eval_batch_size"])),
        bf16=numerics.bf16,
    )
    return Scores(pairs, np.array(rewards[0::2]), np.array(rewards[1::2]))


def digests(model: torch.nn.Module) -> dict[str, str]:
    """Hashes of the trainable parameters."""
    return {
        name: hashlib.sha256(p.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, p in trainable(model)
    }


def _trainer_class(base: type[Any]) -> type[Any]:
    """``base`` with our own evaluation, a look at every loss, and no model cards."""

    class PlauditTrainer(base):  # type: ignore[misc]
        run: Run
        control: TrainerControl

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            """Per-pair metrics of the held-out pairs, said and shown to the callbacks."""
            found = self.run.metrics(self.run.evaluate())
            self.run.reporter.say(self.state, {f"eval/{k}": v for k, v in found.items()})
            results = {f"eval_{name}": value for name, value in found.items()}
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, results
            )
            if not np.isfinite(found["loss"]):
                raise nan_loss("the evaluation loss", self.state.global_step)
            return results

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            if not torch.isfinite(loss):
                raise nan_loss("the loss", self.state.global_step + 1)
            return loss

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Ours is written when the adapter is packaged."""

    return PlauditTrainer
