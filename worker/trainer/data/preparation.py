"""Prepare a job's pairs before training: tokenise them, report on them, estimate the memory.

Inspections and training jobs use the same code, so that neither accepts what the other refuses.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from app.domain.compiler import planned_steps
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Noted, Reported, RowsDone
from app.domain.templates import FIXED_DAY, has_fixed_date
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.reward_model.loading import device_config_for
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.findings import MAX_LINES_IN_MESSAGE, Finding
from worker.trainer.data.pair_table import PairTable
from worker.trainer.data.pairs import (
    PairObserver,
    TokenizedPairs,
    pair_files,
    split_by_prompt,
    tokenize_pairs,
)
from worker.trainer.data.report import DatasetReportBuilder
from worker.trainer.data.row_files import count_rows, write_sample
from worker.trainer.data.template_coverage import warn_of_lost_text
from worker.trainer.data.tokenized_file import PairBlock, PairFile
from worker.trainer.memory_budget import device_memory_bytes, uses_activation_checkpointing
from worker.trainer.memory_estimate import StepConfig, estimate_memory, explain_shortage

#: Seconds between two messages about the rows that are done.
PROGRESS_SECONDS = 1.0
#: Rows of the sample from which a large dataset is reported first.
SAMPLE_ROWS = 2000
#: Datasets with more rows are large.
LARGE_ROWS = 4 * SAMPLE_ROWS


@dataclass(frozen=True)
class DataInputs:
    """What the pairs of a job depend on."""

    order: WorkOrder
    plan: TrainingPlan
    facts: BaseModelFacts | None
    """Of the base model, for the memory estimate; None: no estimate."""
    tokenizer: PairTokenizer
    channel: Channel

    def send_reports(self, report: DatasetReportBuilder, looked_at: int, in_all: int) -> None:
        """Send the dataset report and the memory estimate.

        Args:
            report: the report on the rows that were looked at.
            looked_at: rows of the training data among them.
            in_all: rows of the training data.
        """
        document = report.build()
        rows = {"rows_looked_at": looked_at, "rows_in_all": in_all}
        self.channel.send(Reported(name="dataset", document={**document, **rows}))
        if self.facts is not None:
            limit = self.order.memory_bytes
            _report_memory(self.plan, self.facts, report.longest, limit, self.channel)


def prepare_data(inputs: DataInputs) -> tuple[PairTable, PairTable]:
    """Return the training and the eval pairs; send the reports and the warnings about them.

    Raises:
        StoppedError: the supervisor asked for it.
        TrainerError: dataset_invalid or pairs_overlong, after the report was sent.
    """
    plan, channel = inputs.plan, inputs.channel
    _warn_of_base_model(plan, channel)
    train_file, eval_file = pair_files(inputs.order, plan, inputs.tokenizer)
    row_count = count_rows(train_file.path)
    total = row_count + (count_rows(eval_file.path) if eval_file else 0)
    report = DatasetReportBuilder(plan.tokenization.max_length)
    reader = _DatasetReader(inputs.tokenizer, report, _RowProgress(channel, total))
    evaluation = None
    try:
        training = reader.read(train_file, "training")
        if eval_file:
            evaluation = reader.read(eval_file, "eval")
    finally:  # the report is needed most when the data are refused
        inputs.send_reports(report, row_count, row_count)
    _warn_of_pairs(training, "training", inputs)
    train_pairs, eval_pairs = training.drawn, training.pairs[:0]
    if eval_file and evaluation is not None:
        _warn_of_pairs(evaluation, "eval", inputs)
        _warn_of_leaks(report, channel)
        eval_pairs = evaluation.pairs
    elif plan.data.eval_fraction is not None:
        seed = plan.reward_arguments.seed
        train_pairs, eval_pairs = split_by_prompt(training, plan.data.eval_fraction, seed)
    for file, name, pairs in (
        (train_file, "training", train_pairs),
        (eval_file, "eval", eval_pairs),
    ):
        if file is not None:
            for warning in warn_of_lost_text(inputs.tokenizer, name, file.path, pairs):
                channel.send(warning)
    _warn_of_missed_evaluations(planned_steps(len(train_pairs), plan), plan, channel)
    return train_pairs, eval_pairs


def report_sample(inputs: DataInputs) -> None:
    """Send reports from a sample of a large dataset, for clients that wait for an answer.

    The same dataset gives the same sample. Its faults are reported and not raised: ``prepare_data``
    meets them again.
    """
    train_file, eval_file = pair_files(inputs.order, inputs.plan, inputs.tokenizer)
    row_count = count_rows(train_file.path)
    if row_count <= LARGE_ROWS or (train_file.entry and train_file.entry.path.exists()):
        return
    report = DatasetReportBuilder(inputs.plan.tokenization.max_length)
    reader = _DatasetReader(inputs.tokenizer, report, _RowProgress(inputs.channel, 0))
    for file, dataset in ((train_file, "training"), (eval_file, "eval")):
        if file is None:
            continue
        rows = row_count if file is train_file else count_rows(file.path)
        target = Path(f"sample-{dataset}.jsonl")
        write_sample(file.path, rows, min(rows, SAMPLE_ROWS), target)
        with suppress(TrainerError):
            reader.read(replace(file, path=target, entry=None), dataset)
        target.unlink()
    inputs.send_reports(report, SAMPLE_ROWS, row_count)


@dataclass
class _RowProgress:
    """Sends how many rows are tokenised, at most once a second, and stops on request."""

    channel: Channel
    total: int  # 0: send nothing
    started_at: float = field(default_factory=time.monotonic)
    sent_at: float = field(default_factory=time.monotonic)
    before: int = 0  # rows of earlier files

    def report(self, count: int) -> None:
        """Report that so many rows of this file are done.

        Raises:
            StoppedError: the supervisor asked for it.
        """
        if self.channel.is_stop_wanted:
            raise StoppedError(0)
        now, done = time.monotonic(), self.before + count
        if not self.total or now - self.sent_at < PROGRESS_SECONDS:
            return
        self.sent_at = now
        left = (now - self.started_at) / done * (self.total - done)
        self.channel.send(RowsDone(done=done, total=self.total, seconds_left=round(left, 1)))


@dataclass(frozen=True)
class _DatasetReader:
    """Tokenises datasets while the report sees all of their pairs."""

    tokenizer: PairTokenizer
    report: DatasetReportBuilder
    progress: _RowProgress

    def read(self, file: PairFile, dataset: str) -> TokenizedPairs:
        """Tokenise the "training" or the "eval" dataset."""

        def on_block(block: PairBlock, is_drawn: NDArray[np.bool_]) -> None:
            if dataset == "training":
                self.report.add_training(block.where(is_drawn))
            else:
                self.report.add_eval(block)

        observer = PairObserver(
            on_block, partial(self.report.add_invalid_row, dataset), self.progress.report
        )
        tokenized = tokenize_pairs(file, self.tokenizer, observer)
        self.progress.before += tokenized.row_count
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
            f"{', '.join(plan.head.unused[:MAX_LINES_IN_MESSAGE])}. It is not used: the head "
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


def _report_memory(
    plan: TrainingPlan,
    facts: BaseModelFacts,
    longest: int,
    memory_limit: int | None,
    channel: Channel,
) -> None:
    """Send the memory estimate, and a warning when it exceeds the device's memory."""
    device_config = device_config_for(plan)
    device_bytes = device_memory_bytes(device_config.device, memory_limit)
    is_packed = plan.engine != "stock" and facts.is_causal and not plan.lora_arguments.lora_dropout
    step = StepConfig(
        device=device_config.device,
        bf16=device_config.bf16,
        longest=longest,
        activation_checkpointing=uses_activation_checkpointing(
            device_config.device,
            setting=plan.gradient_checkpointing,
            is_supported=facts.supports_gradient_checkpointing,
        ),
        packed_device_bytes=device_bytes if is_packed else None,
    )
    estimate = estimate_memory(facts, plan, step)
    document: dict[str, JsonValue] = {**estimate.document(), "device_bytes": device_bytes}
    channel.send(Reported(name="memory", document=document))
    if shortage := explain_shortage(estimate, device_bytes):
        _warn(channel, WarningCode.MEMORY_SHORT, shortage)


def _warn_of_pairs(tokenized: TokenizedPairs, dataset: str, inputs: DataInputs) -> None:
    """Warn of what is left out of the dataset or is odd about its pairs."""
    total = len(tokenized.pairs) + tokenized.overlong.count
    max_length = inputs.plan.tokenization.max_length
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
                f"are longer than {max_length} tokens and were dropped",
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
            _warn(inputs.channel, code, message, {**data, "longest": tokenized.longest})


def _warn_of_leaks(report: DatasetReportBuilder, channel: Channel) -> None:
    """Warn of eval prompts that are trained on: their accuracy is easily overrated."""
    if not (leaked := report.leaked).count:
        return
    _warn(
        channel,
        WarningCode.EVAL_LEAKED,
        f"{leaked.count} of {report.eval_count} eval pairs have a prompt that also occurs in the "
        "training pairs: the accuracy on them says little about new prompts",
        _data("eval", leaked),
    )


def _data(dataset: str, finding: Finding) -> dict[str, JsonValue]:
    lines: list[JsonValue] = [*finding.lines[:MAX_LINES_IN_MESSAGE]]
    return {"dataset": dataset, "count": finding.count, "lines": lines}


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
