"""Prepare a job's pairs before training: tokenise them, report on them, estimate the memory.

Inspections and training jobs use the same code, so that neither accepts what the other refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from app.domain.compiler import planned_steps
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.progress import Noted, Reported
from app.domain.templates import FIXED_DAY, has_fixed_date
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import StoppedError
from worker.reward_model.loading import device_config_for
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import (
    MAX_LINES_LISTED,
    Pair,
    TokenizedPairs,
    pair_files,
    split_by_prompt,
    tokenize_pairs,
)
from worker.trainer.data.prepared import PreparedData, count_pairs
from worker.trainer.data.report import DatasetReportBuilder, Finding
from worker.trainer.data.template_coverage import TemplateCoverage
from worker.trainer.data.tokenized_rows import PairFile, TokenizedRow
from worker.trainer.memory_budget import device_memory_bytes, uses_activation_checkpointing
from worker.trainer.memory_estimate import StepConfig, estimate_memory, explain_shortage

#: Shares of the training pairs from which on a warning is worth its place.
MANY_DUPLICATES, MANY_CONTRADICTIONS = 0.05, 0.01


def prepare_data(
    order: WorkOrder,
    plan: TrainingPlan,
    facts: BaseModelFacts | None,
    tokenizer: PairTokenizer,
    channel: Channel,
) -> PreparedData:
    """Return the training and the eval pairs; send the reports and the warnings about them.

    Raises:
        StoppedError: the supervisor asked for it.
        TrainerError: dataset_invalid or pairs_overlong, after the report was sent.
    """
    _warn_of_base_model(plan, channel)
    train_file, eval_file = pair_files(order, plan, tokenizer)
    report = DatasetReportBuilder(plan.tokenization.max_length)
    reader = _DatasetReader(tokenizer, report, channel)
    evaluation = counts = None
    try:
        training = reader.read(train_file, plan.data.train, "training")
        if eval_file and plan.data.eval:
            evaluation = reader.read(eval_file, plan.data.eval, "eval")
        used = _split(plan, training, evaluation)
        counts = count_pairs(plan, training, evaluation, used)
    finally:  # the report is needed most when the data are refused
        channel.send(Reported(name="dataset", document=report.build(counts)))
        if facts is not None:
            report_memory(plan, facts, report.longest, order.memory_bytes, channel)
    _warn_of_pairs(training, "training", tokenizer, channel)
    _warn_of_repetition(report, channel)
    if evaluation is not None:
        _warn_of_pairs(evaluation, "eval", tokenizer, channel)
        _warn_of_leaks(report, len(evaluation.pairs), channel)
    _warn_of_missed_evaluations(planned_steps(len(used[0]), plan), plan, channel)
    return PreparedData(*used, counts)


def _split(
    plan: TrainingPlan, training: TokenizedPairs, evaluation: TokenizedPairs | None
) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and the pairs to evaluate on."""
    if evaluation is None and plan.data.eval_fraction is not None:
        seed = plan.data.eval_seed
        if seed is None:  # a plan of an earlier version
            seed = plan.reward_arguments.seed
        return split_by_prompt(training.pairs, plan.data.eval_fraction, seed)
    return _drawn(training.pairs), evaluation.pairs if evaluation else []


def _drawn(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.is_drawn]


@dataclass(frozen=True)
class _DatasetReader:
    """Tokenises a dataset while the report and the template check see each of its rows."""

    tokenizer: PairTokenizer
    report: DatasetReportBuilder
    channel: Channel

    def read(self, file: PairFile, data: DatasetRef, dataset: str) -> TokenizedPairs:
        """Tokenise the "training" or the "eval" dataset."""
        coverage = TemplateCoverage(self.tokenizer, dataset, data.pair_count)
        is_training = dataset == "training"
        add = self.report.add_training_row if is_training else self.report.add_eval_row

        def on_row(row: TokenizedRow, is_used: bool) -> None:  # noqa: FBT001 - a callback
            if self.channel.is_stop_wanted:
                raise StoppedError(0)
            if row.is_drawn or not is_training:
                add(row, is_used=is_used)
                coverage.add(row)

        on_invalid = partial(self.report.add_invalid_row, dataset)
        tokenized = tokenize_pairs(file, self.tokenizer, on_row, on_invalid)
        for warning in coverage.warnings():
            self.channel.send(warning)
        return tokenized


def _warn_of_base_model(plan: TrainingPlan, channel: Channel) -> None:
    """Warn where the adapter's tokenizer and chat template differ from the base model's."""
    if has_fixed_date(plan.tokenization.chat_template or ""):
        _warn(
            channel,
            WarningCode.TEMPLATE_DATE_FIXED,
            "the base model's chat template writes today's date into every text. The adapter's "
            f"template always writes {FIXED_DAY}, so that scores do not depend on the day: render "
            "texts with the adapter's tokenizer",
        )
    if plan.head and plan.head.unused:
        _warn(
            channel,
            WarningCode.HEAD_UNUSED,
            "the base model's files have what looks like a trained head, which does not fit: "
            f"{', '.join(plan.head.unused[:MAX_LINES_LISTED])}. It is not used: the reward head "
            "starts random",
        )
    if plan.tokenization.from_file:
        _warn(
            channel,
            WarningCode.TOKENIZER_FROM_FILE,
            "for this base model transformers builds a tokenizer that splits text differently from "
            "its tokenizer.json, with which the model was trained. The adapter has the tokenizer "
            "of that file: score with the adapter's tokenizer, not with the base model's",
        )


def report_memory(
    plan: TrainingPlan,
    facts: BaseModelFacts,
    longest: int,
    memory_limit: int | None,
    channel: Channel,
    measured: int | None = None,
) -> None:
    """Send the memory estimate, and a warning when it exceeds the device's memory.

    ``measured`` is the peak of a run that has ended; the report then has both.
    """
    device_config = device_config_for(plan)
    device_bytes = device_memory_bytes(device_config.device, memory_limit)
    is_chunked = plan.engine != "stock"
    step = StepConfig(
        device=device_config.device,
        bf16=device_config.bf16,
        longest=longest,
        activation_checkpointing=uses_activation_checkpointing(
            device_config.device,
            setting=plan.gradient_checkpointing,
            is_supported=facts.supports_gradient_checkpointing,
        ),
        chunked_device_bytes=device_bytes if is_chunked else None,
    )
    estimate = estimate_memory(facts, plan, step)
    document: dict[str, JsonValue] = {**estimate.document(), "device_bytes": device_bytes}
    if measured is not None:
        document["measured_peak_bytes"] = measured
    channel.send(Reported(name="memory", document=document))
    if measured is None and (shortage := explain_shortage(estimate, device_bytes)):
        _warn(channel, WarningCode.MEMORY_SHORT, shortage)


def _warn_of_pairs(
    tokenized: TokenizedPairs, dataset: str, tokenizer: PairTokenizer, channel: Channel
) -> None:
    """Warn of what is left out of the dataset or is odd about its pairs."""
    for reason, lines in tokenized.unrenderable.items():
        _warn(
            channel,
            WarningCode.ROWS_SKIPPED,
            f"{len(lines)} of {tokenized.row_count} {dataset} rows were skipped: {reason}",
            {"dataset": dataset, "count": len(lines), "lines": list(lines[:MAX_LINES_LISTED])},
        )
    total = len(tokenized.pairs) + len(tokenized.overlong)
    for code, lines, what in (
        (
            WarningCode.PAIRS_DROPPED,
            tokenized.overlong,
            f"are longer than {tokenizer.plan.max_length} tokens and were dropped",
        ),
        (
            WarningCode.PAIRS_TRUNCATED,
            tokenized.truncated,
            f"are longer than {tokenizer.plan.max_length} tokens and were cut at the beginning of "
            "their prompt",
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
            "have no white space between prompt and reply, so that the last word of the prompt "
            "and the first word of the reply are read as one",
        ),
    ):
        if not lines:
            continue
        data: dict[str, JsonValue] = {
            "dataset": dataset,
            "count": len(lines),
            "lines": list(lines[:MAX_LINES_LISTED]),
            "longest": tokenized.longest,
        }
        _warn(channel, code, f"{len(lines)} of {total} {dataset} pairs {what}", data)


def _warn_of_repetition(report: DatasetReportBuilder, channel: Channel) -> None:
    """Warn of many training pairs that occur again, or in reverse."""
    for name, code, share, what in (
        ("duplicates", WarningCode.PAIRS_REPEATED, MANY_DUPLICATES, "occur again"),
        (
            "contradictions",
            WarningCode.PAIRS_CONTRADICTORY,
            MANY_CONTRADICTIONS,
            "contradict an earlier pair, in which the same replies are chosen the other way round",
        ),
    ):
        found = report.finding(name)
        if found.count and found.count >= share * report.row_count:
            message = f"{found.count} of {report.row_count} training pairs {what}"
            _warn(channel, code, message, _lines("training", found))


def _warn_of_leaks(report: DatasetReportBuilder, eval_count: int, channel: Channel) -> None:
    """Warn of eval prompts that are trained on: their accuracy is easily overrated."""
    if not (leaked := report.finding("leaked")).count:
        return
    _warn(
        channel,
        WarningCode.EVAL_LEAKED,
        f"{leaked.count} of {eval_count} eval pairs have a prompt that also occurs in the training "
        "pairs: the accuracy on them says little about new prompts",
        _lines("eval", leaked),
    )


def _lines(dataset: str, found: Finding) -> dict[str, JsonValue]:
    lines: list[JsonValue] = [*found.lines[:MAX_LINES_LISTED]]
    return {"dataset": dataset, "count": found.count, "lines": lines}


def _warn_of_missed_evaluations(steps: int, plan: TrainingPlan, channel: Channel) -> None:
    """Warn when training ends before its first evaluation, which disables early stopping."""
    every = plan.reward_arguments.eval_steps
    if every is None or every <= steps:
        return
    message = (
        f"eval_steps {every} is more than the {steps} steps of this job, so that the model is "
        "evaluated before and after training only"
    )
    if plan.early_stopping:
        message += ", and early_stopping has no effect"
    _warn(channel, WarningCode.EVAL_STEPS_UNREACHED, message)


def _warn(
    channel: Channel, code: WarningCode, message: str, data: dict[str, JsonValue] | None = None
) -> None:
    channel.send(Noted(code=code, message=message, data=data or {}, is_warning=True))
