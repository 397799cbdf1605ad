"""``spec → plan``: pure, so that the API can refuse before a worker is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from app.domain.paths import saved_paths, shortest_names, target_paths
from app.domain.plan import (
    BaseModelFacts,
    BaseModelRef,
    DataPlan,
    DatasetRef,
    TokenizationPlan,
    TrainingPlan,
)
from app.domain.rules import check
from app.domain.spec import EvalFraction, LoraSpec, RewardJobSpec, TrainingSpec
from app.domain.templates import plain_template, with_stopped_clock


def compile_plan(
    spec: RewardJobSpec,
    source: str,
    facts: BaseModelFacts,
    train: DatasetRef,
    evaluation: DatasetRef | None,
    data_format: str,
) -> TrainingPlan:
    """Turn a spec into the exact arguments of LoraConfig and RewardConfig.

    Raises:
        SpecRejected: with every problem found, each naming its field.
    """
    check(spec, facts, train, data_format)
    targets = target_paths(spec.lora, facts)
    saved = saved_paths(spec.lora, facts)
    pad_token, pad_token_id = _pad_token(facts)
    template = None
    if data_format == "conversational":
        own = facts.chat_template
        template = with_stopped_clock(own) if own else plain_template(facts, pad_token)
    fraction = spec.eval_dataset.fraction if isinstance(spec.eval_dataset, EvalFraction) else None
    return TrainingPlan(
        base_model=BaseModelRef(
            id=spec.base_model, source=source, revision=facts.revision, digest=facts.digest
        ),
        architecture=facts.architecture,
        head_modules=sorted(facts.new_modules),
        lora={
            "task_type": "SEQ_CLS",
            "r": spec.lora.r,
            "lora_alpha": spec.lora.alpha,
            "lora_dropout": spec.lora.dropout,
            "target_modules": list(shortest_names(targets, facts.modules)),
            "modules_to_save": list(saved),
            "use_rslora": spec.lora.use_rslora,
            "use_dora": spec.lora.use_dora,
            "init_lora_weights": True if spec.lora.init == "default" else spec.lora.init,
            "bias": "none",
            "revision": facts.revision,
        },
        reward=_reward_arguments(spec, has_eval=evaluation is not None or fraction is not None),
        tokenization=TokenizationPlan(
            max_length=min(spec.training.max_length, facts.max_positions or 2**31),
            overlong=spec.training.overlong,
            chat_template=template,
            append_eos=data_format == "text" and facts.eos_token is not None,
            pad_token=pad_token,
            pad_token_id=pad_token_id,
            from_file=facts.tokenizer_from_file,
        ),
        data=DataPlan.model_validate(
            {"train": train, "eval": evaluation, "eval_fraction": fraction, "format": data_format}
        ),
        engine=spec.training.engine,
        precision=spec.training.precision,
        quantization=spec.quantization,
        gradient_checkpointing=_gradient_checkpointing(spec.training, facts),
        gpus=spec.resources.gpus,
        early_stopping=(
            spec.training.early_stopping.model_dump(mode="json")
            if spec.training.early_stopping
            else None
        ),
        max_runtime_seconds=spec.resources.max_runtime_seconds,
        trainable_parameters=_lora_parameters(spec.lora, facts, targets)
        + sum(facts.modules[path] for path in saved),
        total_parameters=facts.parameter_count,
    )


def batch_split(batch_size: int, per_device: int | str) -> tuple[int, int]:
    """``(pairs a forward pass, accumulation steps)``; "auto" takes the largest divisor ≤ 8."""
    if per_device == "auto":
        per_device = max(n for n in range(1, 9) if batch_size % n == 0)
    return int(per_device), batch_size // int(per_device)


def _pad_token(facts: BaseModelFacts) -> tuple[str, int]:
    """A pad token that is not EOS and has an embedding row (``check`` saw to it)."""
    if facts.pad_token is not None and facts.pad_token_id != facts.eos_token_id:
        assert facts.pad_token_id is not None
        return facts.pad_token, facts.pad_token_id
    if facts.spare_pad_tokens:
        return min(facts.spare_pad_tokens.items(), key=lambda item: item[1])
    # Only reached for chat data, whose rendered tail is not EOS (rule checked per row).
    assert facts.eos_token is not None
    assert facts.eos_token_id is not None
    return facts.eos_token, facts.eos_token_id


def _gradient_checkpointing(
    training: TrainingSpec, facts: BaseModelFacts
) -> bool | Literal["auto"]:
    """Left to the trainer, who knows its memory, where the architecture can do it at all."""
    return training.gradient_checkpointing if facts.supports_gradient_checkpointing else False


def _reward_arguments(spec: RewardJobSpec, *, has_eval: bool) -> dict[str, object]:
    training = spec.training
    # The best model is a checkpoint, so early stopping keeps one at every evaluation.
    save_steps = training.checkpoint_steps or (
        training.eval_steps if training.early_stopping else None
    )
    per_device, accumulation = batch_split(training.batch_size, training.per_device_batch_size)
    return {
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "warmup_steps": training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "center_rewards_coefficient": training.center_rewards_coefficient,
        # The service tokenises and filters; TRL must not drop rows again in silence.
        "max_length": None,
        # TRL zeroes every dropout by default, also the one that was asked for.
        "disable_dropout": spec.lora.dropout == 0,
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if has_eval and training.eval_steps else "no",
        "eval_steps": training.eval_steps if has_eval else None,
        "save_strategy": "steps" if save_steps else "no",
        "save_steps": save_steps or 500,
        "load_best_model_at_end": training.early_stopping is not None,
        "metric_for_best_model": "eval_loss" if training.early_stopping else None,
        "greater_is_better": False if training.early_stopping else None,
        "seed": training.seed,
        "data_seed": training.seed,
        "report_to": "none",
        "push_to_hub": False,
        "remove_unused_columns": True,
        "dataloader_num_workers": 0,
    }


def _lora_parameters(lora: LoraSpec, facts: BaseModelFacts, targets: Sequence[str]) -> int:
    """LoRA's own: r·(in + out) a layer, one magnitude an output with DoRA (Liu et al. 2024)."""
    shapes = [facts.linear_modules[path] for path in targets]
    return sum(lora.r * (i + o) + (o if lora.use_dora else 0) for i, o in shapes)


def planned_steps(pair_count: int, plan: TrainingPlan) -> int:
    """Optimiser steps for ``pair_count`` training pairs, as transformers' Trainer counts them."""
    reward = plan.reward_arguments
    if reward.max_steps > 0:
        return reward.max_steps
    batches = math.ceil(pair_count / reward.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / reward.gradient_accumulation_steps))
    return math.ceil(reward.num_train_epochs * per_epoch)
