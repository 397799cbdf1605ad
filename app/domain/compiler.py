"""Compile a job spec into a training plan.

Compilation is pure, so the API can reject a spec without a worker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import JsonValue

from app.domain.job_data import JobData
from app.domain.metric_names import eval_group
from app.domain.pad_tokens import choose_pad_token
from app.domain.paths import saved_paths, shortest_names, target_paths
from app.domain.plan import (
    BaseModelFacts,
    BaseModelRef,
    DataPlan,
    DatasetRef,
    HeadPlan,
    TokenizationPlan,
    TrainingPlan,
)
from app.domain.rules import check
from app.domain.spec import EvalFraction, LoraSpec, RewardJobSpec
from app.domain.templates import plain_template, with_fixed_date, with_variables
from app.domain.text_format import TextFormat
from app.domain.training_spec import TrainingSpec


def compile_plan(
    spec: RewardJobSpec, source: str, facts: BaseModelFacts, data: JobData
) -> TrainingPlan:
    """Compile a spec into the exact arguments of LoraConfig and RewardConfig.

    Args:
        spec: The job spec of the user.
        source: The source of the base model, from the catalogue.
        facts: The inspection results of the base model.
        data: The datasets that the spec names.

    Raises:
        SpecRejectedError: With every violated rule, each naming its field.
    """
    training = spec.training
    has_template = bool(training.chat_template or facts.chat_template)
    text_format = data.form.text_format(spec, has_template=has_template)
    check(spec, facts, data.train, text_format)
    targets = target_paths(spec.lora, facts)
    saved = saved_paths(spec.lora, facts)
    data_plan = _data(spec, data, text_format)
    return TrainingPlan(
        base_model=BaseModelRef(
            id=spec.base_model, source=source, revision=facts.revision, digest=facts.digest
        ),
        architecture=facts.architecture,
        head_modules=sorted(facts.new_modules),
        head=_head(spec, facts),
        lora=_lora_arguments(spec.lora, facts, targets, saved),
        reward=_reward_arguments(spec, has_eval=data_plan.has_eval),
        tokenization=_tokenization(
            training, facts, text_format, data.form.template_variables(spec)
        ),
        data=data_plan,
        engine=training.engine,
        precision=training.precision,
        quantization=spec.quantization,
        gradient_checkpointing=_gradient_checkpointing(training, facts),
        gpus=spec.resources.gpus,
        resume=training.resume,
        early_stopping=training.early_stopping
        # The dataset that decides is a part of the arguments.
        and training.early_stopping.model_dump(mode="json", exclude={"monitored_dataset"}),
        max_runtime_seconds=spec.resources.max_runtime_seconds,
        trainable_parameters=_trainable_parameters(spec.lora, facts, targets, saved),
        total_parameters=facts.parameter_count,
    )


def batch_split(training: TrainingSpec) -> tuple[int, int]:
    """Return the pairs per forward pass and the number of accumulation steps.

    "auto" selects the largest divisor of ``batch_size`` that is at most 64, or at most 8 for the
    stock engine, which keeps a whole pass in memory. Other engines split it by their memory budget.
    """
    total = training.batch_size
    if training.per_device_batch_size != "auto":
        return training.per_device_batch_size, total // training.per_device_batch_size
    most = 8 if training.engine == "stock" else 64
    per_device = max(n for n in range(1, most + 1) if total % n == 0)
    return per_device, total // per_device


def _head(spec: RewardJobSpec, facts: BaseModelFacts) -> HeadPlan:
    if facts.head_tensors and spec.base_model_head != "new":
        return HeadPlan(start="base_model", tensors=facts.head_tensors)
    has_own = any(name == stored for name, stored in facts.head_tensors.items())
    # With "new", the user does not want a trained head, so none counts as unused.
    unused = [] if spec.base_model_head == "new" else facts.unused_heads
    return HeadPlan(start="new", is_reset=has_own, unused=unused)


def _data(spec: RewardJobSpec, data: JobData, text_format: TextFormat | None) -> DataPlan:
    held_out, train = spec.eval_dataset, data.train
    return DataPlan(
        train=train,
        eval=data.evaluation,
        eval_datasets=dict(sorted(data.named.items())),
        eval_fraction=held_out.fraction if isinstance(held_out, EvalFraction) else None,
        eval_seed=_split_seed(held_out, train) if isinstance(held_out, EvalFraction) else None,
        format="text" if text_format == "raw" else "conversational",
        pairs_per_prompt=spec.training.pairs_per_prompt,
    )


def _split_seed(held_out: EvalFraction, train: DatasetRef) -> int:
    """Return the seed of the split; by default it depends on the dataset's content only."""
    return int(train.sha256[:8], 16) if held_out.seed is None else held_out.seed


def _lora_arguments(
    lora: LoraSpec, facts: BaseModelFacts, targets: Sequence[str], saved: Sequence[str]
) -> dict[str, JsonValue]:
    return {
        "task_type": "SEQ_CLS",
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [*shortest_names(targets, facts.modules)],
        "modules_to_save": [*saved],
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": True if lora.init == "default" else lora.init,
        "bias": "none",
        "revision": facts.revision,
    }


def _tokenization(
    training: TrainingSpec,
    facts: BaseModelFacts,
    text_format: TextFormat | None,
    variables: dict[str, bool | int | float | str],
) -> TokenizationPlan:
    pad_token, pad_token_id = choose_pad_token(training, facts, is_raw=text_format == "raw")
    template = None
    if text_format != "raw":
        own = training.chat_template or facts.chat_template
        template = own or plain_template(facts, pad_token)
        template = with_fixed_date(with_variables(template, variables))
    return TokenizationPlan(
        max_length=min(training.max_length, facts.max_positions or 2**31),
        overlong=training.overlong,
        chat_template=template,
        chat_template_kwargs={} if template is None else variables,
        append_eos=text_format == "raw" and facts.eos_token is not None,
        text_format=text_format,
        pad_token=pad_token,
        pad_token_id=pad_token_id,
        from_file=facts.tokenizer_from_file,
        embedding_rows=facts.vocab_rows if facts.max_token_id >= facts.vocab_rows else None,
    )


def _gradient_checkpointing(
    training: TrainingSpec, facts: BaseModelFacts
) -> bool | Literal["auto"]:
    """Return False if the architecture does not support it; the trainer resolves "auto"."""
    return training.gradient_checkpointing if facts.supports_gradient_checkpointing else False


def _reward_arguments(spec: RewardJobSpec, *, has_eval: bool) -> dict[str, JsonValue]:
    training, warmup = spec.training, spec.training.warmup_steps
    stopping = training.early_stopping
    # The best model is loaded from a checkpoint, so early stopping saves one at each evaluation.
    save_steps = training.checkpoint_steps or (training.eval_steps if stopping else None)
    per_device, accumulation = batch_split(training)
    return {
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        # transformers reads a value below 1 as a share of all steps.
        "warmup_steps": training.warmup_ratio if warmup is None else warmup,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "center_rewards_coefficient": training.center_rewards_coefficient,
        # The worker tokenises and filters the pairs. TRL must not silently drop more of them.
        "max_length": None,
        # By default TRL disables every dropout, including the requested one.
        "disable_dropout": spec.lora.dropout == 0,
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if has_eval and training.eval_steps else "no",
        "eval_steps": training.eval_steps if has_eval else None,
        "save_strategy": "steps" if save_steps else "no",
        "save_steps": save_steps or 500,
        "load_best_model_at_end": stopping is not None,
        "metric_for_best_model": f"{eval_group(stopping.monitored_dataset)}_loss"
        if stopping
        else None,
        "greater_is_better": False if stopping else None,
        "seed": training.seed,
        "data_seed": training.seed,
        "report_to": "none",
        "push_to_hub": False,
        "remove_unused_columns": True,
        "dataloader_num_workers": 0,
        **_optional_arguments(training),
    }


def _optional_arguments(training: TrainingSpec) -> dict[str, JsonValue]:
    """Return arguments that are set only if the spec deviates from transformers' defaults.

    Plans of earlier versions do not have them.
    """
    arguments: dict[str, JsonValue] = {}
    if training.lr_scheduler == "cosine_with_restarts":
        arguments["lr_scheduler_kwargs"] = {"num_cycles": training.lr_cycles or 2}
    if training.optimizer != TrainingSpec.model_fields["optimizer"].default:
        arguments["optim"] = training.optimizer
    return arguments


def _trainable_parameters(
    lora: LoraSpec, facts: BaseModelFacts, targets: Sequence[str], saved: Sequence[str]
) -> int:
    """Count the parameters of LoRA and of the modules that are trained in full.

    LoRA has r·(in + out) parameters per layer, and DoRA one magnitude more per output (Liu et al.
    2024).
    """
    shapes = [facts.linear_modules[path] for path in targets]
    adapted = sum(
        lora.r * (inputs + outputs) + (outputs if lora.use_dora else 0)
        for inputs, outputs in shapes
    )
    return adapted + sum(facts.modules[path] for path in saved)


def planned_steps(pair_count: int, plan: TrainingPlan) -> int:
    """Return the optimiser steps for ``pair_count`` pairs, as transformers' Trainer counts them."""
    reward = plan.reward_arguments
    if reward.max_steps > 0:
        return reward.max_steps
    batches = math.ceil(pair_count / reward.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / reward.gradient_accumulation_steps))
    return math.ceil(reward.num_train_epochs * per_epoch)
