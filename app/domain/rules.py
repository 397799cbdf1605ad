"""Rules for a spec, given its base model and its datasets. Every violation names a field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from app.domain.lora_rules import lora_problems
from app.domain.pad_tokens import choose_pad_token
from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.spec import EvalFraction, RewardJobSpec
from app.domain.spec_problems import SpecProblem, SpecRejectedError
from app.domain.text_format import TextFormat
from app.domain.training_spec import BitsAndBytesOptimizer, EarlyStopping, TrainingSpec


def check(
    spec: RewardJobSpec, facts: BaseModelFacts, train: DatasetRef, text_format: TextFormat | None
) -> None:
    """Check every rule.

    Raises:
        SpecRejectedError: With all violated rules.
    """
    problems = [
        *lora_problems(spec.lora, facts),
        *_head_problems(spec, facts),
        *_training_problems(spec, facts),
        *_evaluation_problems(spec),
        *_data_problems(spec, train),
        *_device_problems(spec, facts),
        *_template_problems(spec, text_format),
        *_token_problems(spec.training, facts, is_raw=text_format == "raw"),
    ]
    if problems:
        raise SpecRejectedError(problems)


def _head_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    if spec.base_model_head == "reuse" and not facts.head_tensors:
        unused = ", ".join(facts.unused_heads)
        yield SpecProblem(
            "/base_model_head",
            "no_trained_head",
            f"the files of the base model have no one-row head that fits {facts.architecture}"
            + (f"; they have {unused}" if unused else ""),
            'Use "auto" or "new": the head starts random.',
        )


def _training_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    training = spec.training
    per_device = training.per_device_batch_size
    if isinstance(per_device, int) and training.batch_size % per_device:
        yield SpecProblem(
            "/training/per_device_batch_size",
            "batch_not_divisible",
            f"batch_size {training.batch_size} is not a multiple of {per_device}",
            "Use a per_device_batch_size that divides batch_size, or 'auto'.",
        )
    limit = facts.max_positions or training.max_length
    # The default is lowered to the model's limit, also where a spec states it: the API returns
    # specs with their defaults, and they can be submitted again.
    is_default = training.max_length == TrainingSpec.model_fields["max_length"].default
    if training.max_length > limit and not is_default:
        yield SpecProblem(
            "/training/max_length",
            "beyond_positions",
            f"{training.max_length} tokens exceed the {limit} positions of {facts.architecture} "
            "that work the same in every batch",
            f"Use at most {limit}.",
        )
    if training.gradient_checkpointing is True and not facts.supports_gradient_checkpointing:
        yield SpecProblem(
            "/training/gradient_checkpointing",
            "checkpointing_unsupported",
            f"{facts.architecture} does not support gradient checkpointing",
            "Use 'auto' or false.",
        )
    if training.lr_scheduler == "constant" and training.warmup_ratio:
        yield SpecProblem(
            "/training/warmup_ratio",
            "warmup_unused",
            f'lr_scheduler "constant" has no warm-up, so {training.warmup_ratio} has no effect',
            'Use "constant_with_warmup", or remove warmup_ratio.',
        )
    yield from _schedule_problems(training)


def _schedule_problems(training: TrainingSpec) -> Iterator[SpecProblem]:
    if training.warmup_steps and training.warmup_ratio:
        yield SpecProblem(
            "/training/warmup_steps",
            "warmup_given_twice",
            f"warmup_steps is {training.warmup_steps} and warmup_ratio {training.warmup_ratio}",
            "Remove one of the two.",
        )
    if training.warmup_steps and training.lr_scheduler == "constant":
        yield SpecProblem(
            "/training/warmup_steps",
            "warmup_unused",
            f'lr_scheduler "constant" has no warm-up, so {training.warmup_steps} steps have no '
            "effect",
            'Use "constant_with_warmup", or remove warmup_steps.',
        )
    if training.lr_cycles and training.lr_scheduler != "cosine_with_restarts":
        yield SpecProblem(
            "/training/lr_cycles",
            "cycles_unused",
            f'lr_scheduler "{training.lr_scheduler}" has no cycles',
            'Use "cosine_with_restarts", or remove lr_cycles.',
        )


def _evaluation_problems(spec: RewardJobSpec) -> Iterator[SpecProblem]:
    training = spec.training
    has_eval = spec.eval_dataset is not None or bool(spec.eval_datasets)
    if not has_eval and (training.eval_steps or training.early_stopping):
        field = "early_stopping" if training.early_stopping else "eval_steps"
        yield SpecProblem(
            f"/training/{field}",
            "eval_dataset_missing",
            f"{field} needs pairs to evaluate on, but eval_dataset is null",
            'Set eval_dataset to a dataset\'s id or to {"fraction": 0.1}.',
        )
    elif training.early_stopping:
        yield from _monitor_problems(spec, training.early_stopping)
    if training.early_stopping and not training.eval_steps:
        yield SpecProblem(
            "/training/early_stopping",
            "eval_steps_missing",
            "early stopping needs evaluations, but eval_steps is null",
            "Set eval_steps, or remove early_stopping.",
        )
    if training.early_stopping and training.eval_steps:
        save_steps = training.checkpoint_steps or training.eval_steps
        if save_steps % training.eval_steps:
            yield SpecProblem(
                "/training/checkpoint_steps",
                "checkpoint_not_at_eval",
                f"checkpoint_steps {save_steps} is not a multiple of eval_steps "
                f"{training.eval_steps}, so the best model could not be saved",
                "Use a multiple of eval_steps, or remove checkpoint_steps.",
            )


def _monitor_problems(spec: RewardJobSpec, stopping: EarlyStopping) -> Iterator[SpecProblem]:
    known, name = sorted(spec.eval_datasets), stopping.monitored_dataset
    if name is not None and name not in known:
        yield SpecProblem(
            "/training/early_stopping/monitored_dataset",
            "monitored_dataset_unknown",
            f"eval_datasets has no {name!r}",
            f"Use one of {', '.join(known)}." if known else "Remove it: eval_dataset decides.",
        )
    elif name is None and spec.eval_dataset is None:
        yield SpecProblem(
            "/training/early_stopping",
            "monitored_dataset_missing",
            "it is open which of the eval_datasets decides when training stops",
            f"Set monitored_dataset to one of {', '.join(known)}.",
        )


def _data_problems(spec: RewardJobSpec, train: DatasetRef) -> Iterator[SpecProblem]:
    if train.pair_count < 1:
        yield SpecProblem(
            "/train_dataset",
            "dataset_empty",
            "the dataset has no pairs",
            "Upload a dataset with at least one pair.",
        )
    if isinstance(spec.eval_dataset, EvalFraction):
        held_out = int(train.pair_count * spec.eval_dataset.fraction)
        if not 1 <= held_out < train.pair_count:
            yield SpecProblem(
                "/eval_dataset/fraction",
                "fraction_leaves_nothing",
                f"{spec.eval_dataset.fraction} of {train.pair_count} pairs is {held_out} pairs",
                "Use a fraction that leaves at least one pair to train on and one to evaluate on.",
            )


def _device_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    if spec.quantization != "none" and spec.resources.gpus == 0:
        yield SpecProblem(
            "/quantization",
            "quantization_needs_gpu",
            f"{spec.quantization} quantisation needs a CUDA GPU, but resources.gpus is 0",
            'Set quantization to "none", or resources.gpus to 1.',
        )
    if spec.training.optimizer in get_args(BitsAndBytesOptimizer) and spec.resources.gpus == 0:
        yield SpecProblem(
            "/training/optimizer",
            "optimizer_needs_gpu",
            f"{spec.training.optimizer} needs a CUDA GPU, but resources.gpus is 0",
            'Use an optimiser of torch such as "adamw_torch_fused", or set resources.gpus to 1.',
        )
    quantized = sum(i * o for i, o in facts.linear_modules.values()) / facts.parameter_count
    if spec.quantization != "none" and facts.is_mixture_of_experts and quantized < 0.5:
        yield SpecProblem(
            "/quantization",
            "quantization_leaves_experts",
            f"bitsandbytes quantises linear layers, which have {quantized:.0%} of this model's "
            "parameters: its experts are three-dimensional tensors and stay as they are",
            'Set quantization to "none", or use a base model without experts.',
        )
    if spec.training.engine != "shared_prefix":
        return
    reason = None
    if spec.lora.dropout > 0:
        reason = f"lora.dropout is {spec.lora.dropout}"
    elif not facts.is_causal:
        reason = f"{facts.architecture} does not read its reward at the last token"
    if reason:
        yield SpecProblem(
            "/training/engine",
            "engine_unsupported",
            f"the shared-prefix engine would not be exact: {reason}",
            'Use "auto", which falls back to "stock", or "stock".',
        )


def _template_problems(
    spec: RewardJobSpec, text_format: TextFormat | None
) -> Iterator[SpecProblem]:
    for field in ("chat_template", "chat_template_kwargs"):
        if text_format != "raw" or not getattr(spec.training, field):
            continue
        yield SpecProblem(
            f"/training/{field}",
            "chat_template_unused",
            "the texts of the dataset are tokenised as they are, without a chat template",
            'Remove the field, or set training.text_format to "chat".',
        )


def _unembedded(training: TrainingSpec, facts: BaseModelFacts, *, is_raw: bool) -> dict[str, int]:
    """Return the tokens without an embedding row that would be in every text of the job."""
    if is_raw:
        eos, rows = facts.eos_token_id, facts.vocab_rows
        end = {str(facts.eos_token): eos} if eos is not None and eos >= rows else {}
        return facts.unembedded_in_texts | end
    if training.chat_template:
        return {}
    # Without a template, conversations get the tokens that the tokenizer adds to texts.
    return facts.unembedded_in_conversations if facts.chat_template else facts.unembedded_in_texts


def _token_problems(
    training: TrainingSpec, facts: BaseModelFacts, *, is_raw: bool
) -> Iterator[SpecProblem]:
    for token, token_id in _unembedded(training, facts, is_raw=is_raw).items():
        what = "text" if is_raw else "conversation"
        yield SpecProblem(
            "/base_model",
            "token_outside_embedding",
            f"every {what} contains {token!r}, which is token {token_id}, but the embedding of "
            f"this model has {facts.vocab_rows} rows. The cause is the model and not the data",
            "Ask the operator to fix the model's tokenizer"
            + ("." if is_raw else ", or set training.chat_template to one without the token."),
        )
    try:
        choose_pad_token(training, facts, is_raw=is_raw)
    except SpecRejectedError as error:
        yield from error.problems
