"""What a spec must hold against its base model and data; every rule names its field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.spec import EvalFraction, RewardJobSpec


@dataclass(frozen=True)
class SpecProblem:
    """One reason to refuse: JSON pointer, stable code, what was found, what to do."""

    loc: str
    code: str
    message: str
    hint: str | None = None


class SpecRejected(Exception):
    """The spec cannot be trained as written; ``problems`` says why, field by field."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(f"{p.loc}: {p.message}" for p in problems))
        self.problems = problems

    @classmethod
    def of(cls, loc: str, code: str, message: str, hint: str | None = None) -> SpecRejected:
        """A refusal for one reason."""
        return cls([SpecProblem(loc, code, message, hint)])


def check(spec: RewardJobSpec, facts: BaseModelFacts, train: DatasetRef, data_format: str) -> None:
    """Hold every rule; raise ``SpecRejected`` with all that failed."""
    problems = [
        *_lora_problems(spec, facts),
        *_training_problems(spec, facts, train),
        *_token_problems(facts, data_format),
    ]
    if problems:
        raise SpecRejected(problems)


def _lora_problems(spec: RewardJobSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    lora = spec.lora
    leaves = ", ".join(sorted({p.rsplit(".", 1)[-1] for p in facts.linear_modules}))
    adapted = list(facts.linear_modules)
    if isinstance(lora.target_modules, list):
        adapted = []
        for i, name in enumerate(lora.target_modules):
            hits = _matches(name, facts.linear_modules)
            adapted += hits
            if hits:
                continue
            loc = f"/lora/target_modules/{i}"
            if any(_is_inside(m, facts.new_modules) for m in _matches(name, facts.modules)):
                yield SpecProblem(
                    loc,
                    "head_as_target",
                    f"'{name}' is part of the reward head, which is trained in full, not by LoRA",
                    "Leave it out: the head is always trained and saved.",
                )
            else:
                yield SpecProblem(
                    loc,
                    "target_matches_nothing",
                    f"'{name}' matches no linear layer of {facts.architecture}",
                    f"Linear layers here are called: {leaves}.",
                )
    for i, name in enumerate(lora.modules_to_save):
        hits = _matches(name, facts.modules)
        if len(hits) == 1 or name in facts.new_modules:
            continue
        yield SpecProblem(
            f"/lora/modules_to_save/{i}",
            "module_ambiguous" if hits else "module_matches_nothing",
            f"'{name}' names {len(hits)} modules of {facts.architecture}",
            "Give the full dotted path of one module.",
        )
    smallest = min((min(facts.linear_modules[p]) for p in adapted), default=None)
    if smallest is not None and lora.r > smallest:
        yield SpecProblem(
            "/lora/r",
            "rank_too_large",
            f"rank {lora.r} is more than the smallest side ({smallest}) of the layers it adapts",
            f"Use at most {smallest}.",
        )
    if lora.init == "orthogonal" and lora.r % 2:
        yield SpecProblem(
            "/lora/r", "rank_odd", "orthogonal initialisation needs an even rank", "Use r ± 1."
        )


def _training_problems(
    spec: RewardJobSpec, facts: BaseModelFacts, train: DatasetRef
) -> Iterator[SpecProblem]:
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
            f"{limit} positions",
            f"Use at most {limit}.",
        )
    if training.gradient_checkpointing is True and not facts.supports_gradient_checkpointing:
        yield SpecProblem(
            "/training/gradient_checkpointing",
            "checkpointing_unsupported",
            f"{facts.architecture} cannot recompute activations",
            "Use 'auto' or false.",
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
            "/training/early_stopping", "eval_steps_missing", "early stopping needs eval_steps"
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
    if isinstance(spec.eval_dataset, EvalFraction):
        held_out = int(train.pair_count * spec.eval_dataset.fraction)
        if not 1 <= held_out < train.pair_count:
            yield SpecProblem(
                "/eval_dataset/fraction",
                "fraction_leaves_nothing",
                f"{spec.eval_dataset.fraction} of {train.pair_count} pairs is {held_out} pairs",
                "Choose a share that leaves at least one pair on each side.",
            )


def _token_problems(facts: BaseModelFacts, data_format: str) -> Iterator[SpecProblem]:
    if facts.max_token_id >= facts.vocab_rows:
        yield SpecProblem(
            "/base_model",
            "token_outside_embedding",
            f"the tokenizer gives ids up to {facts.max_token_id}, the embedding has "
            f"{facts.vocab_rows} rows",
            "Ask the operator to repair the model's tokenizer.",
        )
    pad_is_eos = facts.pad_token_id is None or facts.pad_token_id == facts.eos_token_id
    if pad_is_eos and not facts.spare_pad_tokens and data_format == "text":
        yield SpecProblem(
            "/base_model",
            "pad_is_eos",
            "the only pad token of this model is its EOS token, so the reward of plain text "
            "would be read one token early, and elsewhere after a reload",
            "Use conversational data, or a model with a pad token of its own.",
        )


def _matches(name: str, modules: Iterable[str]) -> list[str]:
    return [m for m in modules if m == name or m.endswith(f".{name}")]


def _is_inside(path: str, owners: list[str]) -> bool:
    return any(path == owner or path.startswith(f"{owner}.") for owner in owners)
