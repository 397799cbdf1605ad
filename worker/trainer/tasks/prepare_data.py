"""What can be said before anything is trained: the pairs, what is odd about them, what memory they
take.

An inspection and a training job both come this way, so neither takes what the other refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import JsonValue

from app.domain.compiler import planned_steps
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.progress import Noted, Reported
from app.domain.templates import FIXED_DAY, has_fixed_date
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import Stopped
from worker.reward_model.loading import device_config_for, memory_bytes
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data import pairs
from worker.trainer.data.pairs import Pair, Tokenized
from worker.trainer.data.report import DatasetReportBuilder
from worker.trainer.data.template_coverage import TemplateCoverage
from worker.trainer.data.tokenized_rows import PairFile, TokenizedRow
from worker.trainer.memory_estimate import (
    checkpoints_activations,
    estimate_memory,
    explain,
)


def prepare_data(
    order: WorkOrder,
    plan: TrainingPlan,
    facts: BaseModelFacts | None,
    tokenizer: PairTokenizer,
    channel: Channel,
) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs, with a report and a note for all that is odd about them.

    Raises:
        Stopped: the supervisor asked for it.
        TrainerFailure: dataset_invalid or pairs_overlong, once the report is said.
    """
    _note_model(plan, channel)
    train_file, eval_file = pairs.pair_files(order, plan, tokenizer)
    survey = DatasetReportBuilder(plan.tokenization.max_length)

    def take(
        file: PairFile, data: DatasetRef, which: str, add: Callable[[TokenizedRow], None]
    ) -> Tokenized:
        left_out = TemplateCoverage(tokenizer, which, data.pair_count)

        def look(row: TokenizedRow) -> None:
            if channel.is_stop_wanted:
                raise Stopped(0)
            add(row)
            left_out.look(row)

        found = pairs.tokenize(file, tokenizer, look, partial(survey.refuse, which))
        for note in left_out.notes():
            channel.say(note)
        return found

    held_out = None
    try:
        found = take(train_file, plan.data.train, "training", survey.add)
        if eval_file and plan.data.eval:
            held_out = take(eval_file, plan.data.eval, "eval", survey.add_held_out)
    finally:  # most wanted where the data are refused
        _say_foresight(survey, order, facts, channel)
    _note_findings(found, "training", tokenizer, channel)
    if held_out is not None:
        _note_findings(held_out, "eval", tokenizer, channel)
        _note_leaks(survey, channel)
        sides = found.pairs, held_out.pairs
    elif plan.data.eval_fraction is not None:
        seed = int(str(plan.reward["seed"]))
        sides = pairs.split(found.pairs, plan.data.eval_fraction, seed)
    else:
        sides = found.pairs, []
    _note_evaluations(planned_steps(len(sides[0]), plan), plan, channel)
    return sides


def _note_model(plan: TrainingPlan, channel: Channel) -> None:
    """What the base model's own files would do to texts, and this adapter's do not."""
    notes = {
        WarningCode.TEMPLATE_DATE_FIXED: (
            has_fixed_date(plan.tokenization.chat_template or ""),
            "the base model's chat template writes today's date into every text; this adapter's "
            f"always writes {FIXED_DAY}, so that a score does not hang on the day: render with the "
            "adapter's tokenizer",
        ),
        WarningCode.TOKENIZER_FROM_FILE: (
            plan.tokenization.from_file,
            "transformers cuts texts for this base model otherwise than its tokenizer.json says, "
            "which is what the model learned; this adapter's tokenizer is the file's: score with "
            "that one, not with the base model's",
        ),
    }
    for code, (is_so, message) in notes.items():
        if is_so:
            channel.say(Noted(code=code, message=message, is_warning=True))


def _say_foresight(
    survey: DatasetReportBuilder, order: WorkOrder, facts: BaseModelFacts | None, channel: Channel
) -> None:
    """The dataset report and, where the model's facts are known, the memory estimate."""
    channel.say(Reported(name="dataset", document=survey.document()))
    plan = order.plan
    if facts is None or plan is None:
        return
    numerics = device_config_for(plan)
    there = memory_bytes(numerics.device, order.memory_bytes)
    is_packed = plan.engine != "stock" and facts.is_causal and not plan.lora["lora_dropout"]
    estimate = estimate_memory(
        facts,
        plan,
        longest=survey.longest,
        device=numerics.device,
        bf16=numerics.bf16,
        gradient_checkpointing=checkpoints_activations(
            plan.gradient_checkpointing,
            numerics.device,
            can_checkpoint=facts.supports_gradient_checkpointing,
        ),
        device_bytes=there if is_packed else None,
    )
    channel.say(Reported(name="memory", document={**estimate.document(), "device_bytes": there}))
    if reason := explain(estimate, there):
        channel.say(Noted(code=WarningCode.MEMORY_SHORT, message=reason, is_warning=True))


def _note_findings(
    found: Tokenized, which: str, tokenizer: PairTokenizer, channel: Channel
) -> None:
    notes = {
        WarningCode.PAIRS_DROPPED: (
            found.overlong,
            f"are longer than {tokenizer.plan.max_length} tokens and were left out",
        ),
        WarningCode.PAIRS_IDENTICAL: (
            found.identical,
            "are the same for chosen and rejected as tokens",
        ),
        WarningCode.SPECIAL_TOKENS_IN_TEXT: (
            found.with_special_tokens,
            "hold special tokens of this model in their text",
        ),
    }
    for code, (lines, what) in notes.items():
        if not lines:
            continue
        total = len(found.pairs) + len(found.overlong)
        channel.say(
            Noted(
                code=code,
                message=f"{len(lines)} of {total} {which} pairs {what}",
                data={
                    "dataset": which,
                    "count": len(lines),
                    "lines": list(lines[: pairs.LINES_NAMED]),
                    "longest": found.longest,
                },
                is_warning=True,
            )
        )


def _note_leaks(survey: DatasetReportBuilder, channel: Channel) -> None:
    """An accuracy on prompts that were trained on is taken for more than it says."""
    if not (leaked := survey.leaked).count:
        return
    message = (
        f"{leaked.count} of {survey.held_out} eval pairs have a prompt that is trained on as well: "
        "the accuracy on them says little about new prompts"
    )
    data: dict[str, JsonValue] = {
        "dataset": "eval",
        "count": leaked.count,
        "lines": list(leaked.lines[: pairs.LINES_NAMED]),
    }
    channel.say(Noted(code=WarningCode.EVAL_LEAKED, message=message, data=data, is_warning=True))


def _note_evaluations(steps: int, plan: TrainingPlan, channel: Channel) -> None:
    """Early stopping that never gets to look is no protection."""
    every = plan.reward["eval_steps"]
    if not isinstance(every, int) or every <= steps:
        return
    message = f"eval_steps {every} is more than the {steps} steps of this job, so the model is "
    message += "evaluated before and after training only"
    if plan.early_stopping:
        message += ", and early_stopping does nothing"
    channel.say(Noted(code=WarningCode.EVAL_STEPS_UNREACHED, message=message, is_warning=True))
