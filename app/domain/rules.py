"""What a spec must hold against its base model and data; every rule names its field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.domain.paths import is_inside, matches, saved_paths, target_paths
from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.spec import EvalFraction, LoraSpec, RewardJobSpec

#: What reward heads are called in other models than the one that is trained.
_HEAD_NAMES = frozenset(
    ["score", "classifier", "classification_head", "v_head", "value_head", "reward_head", "lm_head"]
)


@dataclass(frozen=True)
class SpecProblem:
    """One reason to refuse: JSON pointer, stable code, what was found, what to do."""

    loc: str
    code: str
    message: str
    hint: str


class SpecRejected(Exception):
    """The spec cannot be trained as written; ``problems`` says why, field by field."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(f"{p.loc}: {p.message}" for p in problems))
        self.problems = problems

    @classmethod
    def of(cls, loc: str, code: str, message: str, hint: str) -> SpecRejected:
        """A refusal for one reason."""
        return cls([SpecProblem(loc, code, message, hint)])


def check(spec: RewardJobSpec, facts: BaseModelFacts, train: DatasetRef, data_format: str) -> None:
    """Hold every rule; raise ``SpecRejected`` with all that failed."""
    problems = [
        *_lora_problems(spec, facts),
        *_training_problems(spec, facts),
        *_data_problems(spec, train),
        *_device_problems(spec, facts),
        *_token_problems(facts, data_format),
    ]
    if problems:
        raise SpecRejected(problems)


def _lora_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    lora = spec.lora
    yield from _target_problems(lora, facts)
    for i, name in enumerate(lora.modules_to_save):
        yield from _saved_problems(f"/lora/modules_to_save/{i}", name, facts)
    targets = target_paths(lora, facts)
    if not targets and not isinstance(lora.target_modules, list):
        yield SpecProblem(
            "/lora/modules_to_save",
            "nothing_to_adapt",
            f"no linear layer of {facts.architecture} is left for LoRA beside what is saved in "
            "full",
            "Name fewer modules in modules_to_save.",
        )
    smallest = min((min(facts.linear_modules[path]) for path in targets), default=lora.r)
    if lora.r > smallest:
        yield SpecProblem(
            "/lora/r",
            "rank_too_large",
            f"rank {lora.r} is more than the smallest side ({smallest}) of the layers it adapts",
            f"Use at most {smallest}.",
        )
    if lora.init == "orthogonal" and lora.r % 2:
        yield SpecProblem(
            "/lora/r",
            "rank_odd",
            f"orthogonal initialisation needs an even rank, and it is {lora.r}",
            f"Use {lora.r + 1}, or another init.",
        )


def _target_problems(lora: LoraSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    """Each name must mean a layer that LoRA may adapt: PEFT drops one that does not, silently."""
    if isinstance(lora.target_modules, str):
        return
    leaves = ", ".join(sorted({p.rsplit(".", 1)[-1] for p in facts.linear_modules}))
    hint = f"Linear layers here are called: {leaves}."
    saved = saved_paths(lora, facts)
    for i, name in enumerate(lora.target_modules):
        loc = f"/lora/target_modules/{i}"
        hits = matches(name, facts.linear_modules)
        others = matches(name, facts.modules)
        if any(not is_inside(path, saved) for path in hits):
            continue
        if any(is_inside(path, facts.new_modules) for path in others):
            yield SpecProblem(
                loc,
                "head_as_target",
                f"'{name}' is part of the reward head, which is trained in full, not by LoRA",
                "Leave it out: the head is always trained and saved.",
            )
        elif hits:
            yield SpecProblem(
                loc,
                "target_saved_in_full",
                f"'{name}' is trained and saved in full by modules_to_save, so LoRA has no part",
                "Name it in one of the two lists.",
            )
        elif others:
            where = "a mixture of experts" if facts.is_mixture_of_experts else "this model"
            yield SpecProblem(
                loc,
                "target_not_adaptable",
                f"'{name}' is in {facts.architecture}, but no layer that LoRA adapts in {where}",
                hint,
            )
        else:
            yield SpecProblem(
                loc,
                "target_matches_nothing",
                f"'{name}' matches no linear layer of {facts.architecture}",
                hint,
            )


def _saved_problems(loc: str, name: str, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    hits = matches(name, facts.modules)
    hint = "Give the full dotted path of one module."
    if not hits and name.rpartition(".")[2] in _HEAD_NAMES:
        yield SpecProblem(
            loc,
            "head_always_saved",
            f"{facts.architecture} has no module '{name}'; its reward head is "
            f"{', '.join(sorted(facts.new_modules))}",
            "Leave it out: the reward head is always trained and saved.",
        )
        return
    if len(hits) != 1:
        yield SpecProblem(
            loc,
            "module_ambiguous" if hits else "module_matches_nothing",
            f"'{name}' names {len(hits)} modules of {facts.architecture}",
            hint,
        )
        return
    path = hits[0]
    # PEFT matches by plain suffix: "norm" would unfreeze every "…layernorm" as well.
    also = [m for m in facts.modules if m.endswith(path) and not is_inside(m, [path])]
    if also:
        yield SpecProblem(
            loc,
            "module_ambiguous",
            f"saving '{path}' would also unfreeze {also[0]}, whose name ends the same",
            "Leave it out, or name a module around it.",
        )
    if not facts.modules[path]:
        yield SpecProblem(loc, "module_empty", f"'{path}' has no parameters to train", hint)
    children = {m[len(path) + 1 :].split(".")[0] for m in facts.modules if m.startswith(f"{path}.")}
    if children and all(child.isdigit() for child in children):
        yield SpecProblem(
            loc,
            "module_is_a_list",
            f"'{path}' is a list of {len(children)} modules, which PEFT cannot save as one",
            f"Name its members, '{path}.0' and so on.",
        )


def _training_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    training = spec.training
    per_device = training.per_device_batch_size
    if isinstance(per_device, int) and training.batch_size % per_device:
        yield SpecProblem(
            "/training/per_device_batch_size",
            "batch_not_divisible",
            f"batch_size {training.batch_size} is not a multiple of {per_device}",
            "Let per_device_batch_size divide batch_size, or leave it 'auto'.",
        )
    limit = facts.max_positions or training.max_length
    # The default is lowered to what the model has; a number that was asked for is not.
    if training.max_length > limit and "max_length" in training.model_fields_set:
        yield SpecProblem(
            "/training/max_length",
            "beyond_positions",
            f"{training.max_length} tokens do not fit {facts.architecture}, which has "
            f"{limit} positions that mean the same in every batch",
            f"Use at most {limit}.",
        )
    if training.gradient_checkpointing is True and not facts.supports_gradient_checkpointing:
        yield SpecProblem(
            "/training/gradient_checkpointing",
            "checkpointing_unsupported",
            f"{facts.architecture} cannot recompute activations",
            "Use 'auto' or false.",
        )
    if training.lr_scheduler == "constant" and training.warmup_ratio:
        yield SpecProblem(
            "/training/warmup_ratio",
            "warmup_unused",
            f'lr_scheduler "constant" has no warm-up, so {training.warmup_ratio} changes nothing',
            'Use "constant_with_warmup", or leave warmup_ratio out.',
        )
    if spec.eval_dataset is None and (training.eval_steps or training.early_stopping):
        field = "early_stopping" if training.early_stopping else "eval_steps"
        yield SpecProblem(
            f"/training/{field}",
            "eval_dataset_missing",
            f"{field} needs pairs to evaluate on and eval_dataset is null",
            'Give eval_dataset an id or {"fraction": 0.1}.',
        )
    if training.early_stopping and not training.eval_steps:
        yield SpecProblem(
            "/training/early_stopping",
            "eval_steps_missing",
            "early stopping needs evaluations and eval_steps is null",
            "Give eval_steps, or leave early_stopping out.",
        )
    if training.early_stopping and training.eval_steps:
        save_steps = training.checkpoint_steps or training.eval_steps
        if save_steps % training.eval_steps:
            yield SpecProblem(
                "/training/checkpoint_steps",
                "checkpoint_not_at_eval",
                f"checkpoint_steps {save_steps} is not a multiple of eval_steps "
                f"{training.eval_steps}, so the best model could not be kept",
                "Use a multiple of eval_steps, or leave checkpoint_steps out.",
            )


def _data_problems(spec: RewardJobSpec, train: DatasetRef) -> Iterator[SpecProblem]:
    if train.pair_count < 1:
        yield SpecProblem(
            "/train_dataset",
            "dataset_empty",
            "the dataset has no pairs",
            "Upload one with at least one pair.",
        )
    if isinstance(spec.eval_dataset, EvalFraction):
        held_out = int(train.pair_count * spec.eval_dataset.fraction)
        if not 1 <= held_out < train.pair_count:
            yield SpecProblem(
                "/eval_dataset/fraction",
                "fraction_leaves_nothing",
                f"{spec.eval_dataset.fraction} of {train.pair_count} pairs is {held_out} pairs",
                "Choose a share that leaves at least one pair on each side.",
            )


def _device_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    if spec.quantization != "none" and spec.resources.gpus == 0:
        yield SpecProblem(
            "/quantization",
            "quantization_needs_gpu",
            f"{spec.quantization} quantisation needs a CUDA GPU and resources.gpus is 0",
            'Use quantization "none", or resources.gpus 1.',
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
            f"the shared-prefix engine is not exact here: {reason}",
            'Use "auto", which falls back by itself, or "stock".',
        )


def _token_problems(facts: BaseModelFacts, data_format: str) -> Iterator[SpecProblem]:
    largest = max(facts.max_token_id, facts.pad_token_id or 0)
    if largest >= facts.vocab_rows:
        yield SpecProblem(
            "/base_model",
            "token_outside_embedding",
            f"the tokenizer gives ids up to {largest}, the embedding has {facts.vocab_rows} rows",
            "Ask the operator to repair the model's tokenizer.",
        )
    if facts.pad_token_id is None and facts.eos_token_id is None and not facts.spare_pad_tokens:
        yield SpecProblem(
            "/base_model",
            "no_pad_token",
            "the tokenizer has neither a pad token nor an EOS token, nor a spare one to pad with",
            "Ask the operator to give the model's tokenizer a pad token.",
        )
        return
    pad_is_eos = facts.pad_token_id is None or facts.pad_token_id == facts.eos_token_id
    if pad_is_eos and not facts.spare_pad_tokens and data_format == "text":
        yield SpecProblem(
            "/base_model",
            "pad_is_eos",
            f"the only pad token of this model is its EOS token ('{facts.eos_token}'), so the "
            "reward of plain text would be read one token early, and elsewhere after a reload",
            "Use conversational data, or a model with a pad token of its own.",
        )
