"""Warnings about the base model and the pairs before training."""

from __future__ import annotations

from pydantic import JsonValue

from app.domain.plan import TrainingPlan
from app.domain.progress import Noted
from app.domain.templates import FIXED_DAY, has_fixed_date
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.trainer.data.findings import MAX_LINES_IN_MESSAGE, Finding
from worker.trainer.data.pairs import TokenizedPairs
from worker.trainer.data.report import DatasetReportBuilder

#: Smallest shares of the training pairs that cause a warning.
MANY_DUPLICATES, MANY_CONTRADICTIONS = 0.05, 0.01


def warn_of_base_model(plan: TrainingPlan, channel: Channel) -> None:
    """Warn if the adapter's tokenizer, chat template or head differ from the base model's."""
    if has_fixed_date(plan.tokenization.chat_template or ""):
        warn(
            channel,
            WarningCode.TEMPLATE_DATE_FIXED,
            "the base model's chat template writes today's date into every text. The adapter's "
            f"template always writes {FIXED_DAY}, so that scores do not depend on the day: render "
            "texts with the adapter's tokenizer",
        )
    if plan.head and plan.head.unused:
        warn(
            channel,
            WarningCode.HEAD_UNUSED,
            "the base model's files have what looks like a trained head, which does not fit: "
            f"{', '.join(plan.head.unused[:MAX_LINES_IN_MESSAGE])}. It is not used: the head "
            "starts random",
        )
    if plan.tokenization.from_file:
        warn(
            channel,
            WarningCode.TOKENIZER_FROM_FILE,
            "for this base model transformers builds a tokenizer that splits text differently from "
            "its tokenizer.json, with which the model was trained. The adapter has the tokenizer "
            "of that file: score with the adapter's tokenizer, not with the base model's",
        )


def warn_of_pairs(
    tokenized: TokenizedPairs, dataset: str, plan: TrainingPlan, channel: Channel
) -> None:
    """Warn about skipped rows and about dropped, truncated or suspicious pairs."""
    total = len(tokenized.pairs) + tokenized.overlong.count
    max_length, overlong = plan.tokenization.max_length, plan.tokenization.overlong
    too_long = "have replies that alone are" if overlong == "truncate_left" else "are"
    found = [
        (
            WarningCode.ROWS_SKIPPED,
            lines,
            f"{lines.count} of {tokenized.row_count} {dataset} rows were skipped: {reason}",
        )
        for reason, lines in tokenized.unrenderable.items()
    ] + [
        (code, lines, f"{lines.count} of {total} {dataset} pairs {what}")
        for code, lines, what in (
            (
                WarningCode.PAIRS_DROPPED,
                tokenized.overlong,
                f"{too_long} longer than {max_length} tokens and were dropped",
            ),
            (
                WarningCode.PAIRS_TRUNCATED,
                tokenized.truncated,
                f"are longer than {max_length} tokens and were cut at the beginning of their "
                "prompt",
            ),
            (
                WarningCode.PAIRS_IDENTICAL,
                tokenized.identical,
                "have the same tokens for chosen and rejected",
            ),
            (
                WarningCode.SPECIAL_TOKENS_IN_TEXT,
                tokenized.with_special_tokens,
                "contain special tokens of this model in their text",
            ),
            (
                WarningCode.PROMPT_AND_REPLY_JOINED,
                tokenized.with_joined_words,
                "have no white space between prompt and reply, so that the last word of the "
                "prompt and the first word of the reply are read as one",
            ),
        )
    ]
    for code, lines, message in found:
        if lines.count:
            data = _data(dataset, lines)
            warn(channel, code, message, {**data, "longest": tokenized.longest})


def warn_of_repetition(report: DatasetReportBuilder, channel: Channel) -> None:
    """Warn about many training pairs that are repeated or contradict an earlier pair."""
    for name, code, share, what in (
        ("duplicates", WarningCode.PAIRS_REPEATED, MANY_DUPLICATES, "occur again"),
        (
            "contradictions",
            WarningCode.PAIRS_CONTRADICTORY,
            MANY_CONTRADICTIONS,
            "contradict an earlier pair, in which the same replies have the opposite order",
        ),
    ):
        found = report.findings[name]
        if found.count and found.count >= share * report.row_count:
            message = f"{found.count} of {report.row_count} training pairs {what}"
            warn(channel, code, message, _data("training", found))


def warn_of_leaks(
    report: DatasetReportBuilder, group: str, eval_count: int, channel: Channel
) -> None:
    """Warn about eval prompts that are also trained on, because they inflate the accuracy."""
    if not (leaked := report.leaked(group)).count:
        return
    warn(
        channel,
        WarningCode.EVAL_LEAKED,
        f"{leaked.count} of {eval_count} {group} pairs have a prompt that also occurs in the "
        "training pairs: the accuracy on them says little about new prompts",
        _data(group, leaked),
    )


def _data(dataset: str, finding: Finding) -> dict[str, JsonValue]:
    lines: list[JsonValue] = [*finding.lines[:MAX_LINES_IN_MESSAGE]]
    return {"dataset": dataset, "count": finding.count, "lines": lines}


def warn_of_missed_evaluations(steps: int, plan: TrainingPlan, channel: Channel) -> None:
    """Warn if training ends before its first evaluation, which disables early stopping."""
    every = plan.reward_arguments.eval_steps
    if every is None or every <= steps:
        return
    message = (
        f"eval_steps {every} is more than the {steps} steps of this job, so that the model is "
        "evaluated before and after training only"
    )
    if plan.early_stopping:
        message += ", and early_stopping has no effect"
    warn(channel, WarningCode.EVAL_STEPS_UNREACHED, message)


def warn(
    channel: Channel, code: WarningCode, message: str, data: dict[str, JsonValue] | None = None
) -> None:
    channel.send(Noted(code=code, message=message, data=data or {}, is_warning=True))
