"""Prepare a job's pairs before training: tokenise them, report on them, estimate the memory.

Inspections and training jobs use the same code, so that both accept the same data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.compiler import planned_steps
from app.domain.metric_names import EVAL
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Reported, RowsDone
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.data_warnings import (
    warn_of_base_model,
    warn_of_leaks,
    warn_of_missed_evaluations,
    warn_of_pairs,
    warn_of_repetition,
)
from worker.trainer.data.memory_report import report_memory
from worker.trainer.data.pairs import (
    PairObserver,
    TokenizedPairs,
    pair_files,
    split_by_prompt,
    tokenize_pairs,
)
from worker.trainer.data.prepared import PreparedData, UsedPairs, count_pairs
from worker.trainer.data.report import DatasetReportBuilder
from worker.trainer.data.row_files import count_rows, write_sample
from worker.trainer.data.template_coverage import warn_of_lost_text
from worker.trainer.data.tokenized_file import OnRows, PairBlock, PairFile

TRAINING = "training"
#: Seconds between two progress messages.
PROGRESS_SECONDS = 1.0
#: Number of sampled rows for the first report on a large dataset.
SAMPLE_ROWS = 2000
#: Datasets with more rows count as large.
LARGE_ROWS = 4 * SAMPLE_ROWS


@dataclass(frozen=True)
class DataInputs:
    """Inputs for the preparation of a job's pairs."""

    order: WorkOrder
    plan: TrainingPlan
    facts: BaseModelFacts | None
    """Facts about the base model for the memory estimate; None: no estimate."""
    tokenizer: PairTokenizer
    channel: Channel

    def send_reports(
        self,
        report: DatasetReportBuilder,
        counts: dict[str, Any] | None,
        looked_at: int,
        in_all: int,
    ) -> None:
        """Send the dataset report and the memory estimate.

        Args:
            report: the report on the rows read so far.
            counts: result of ``count_pairs``, if it is known.
            looked_at: number of training rows that the report covers.
            in_all: number of all training rows.
        """
        document = report.build(counts)
        rows = {"rows_looked_at": looked_at, "rows_in_all": in_all}
        self.channel.send(Reported(name="dataset", document={**document, **rows}))
        if self.facts is not None:
            limit = self.order.memory_bytes
            report_memory(self.plan, self.facts, report.longest, limit, self.channel)


def prepare_data(inputs: DataInputs) -> PreparedData:
    """Return the training and the eval pairs; send reports and warnings about them.

    Raises:
        StoppedError: the supervisor requested a stop.
        TrainerError: dataset_invalid or pairs_overlong, after the report was sent.
    """
    plan, channel = inputs.plan, inputs.channel
    warn_of_base_model(plan, channel)
    train_file, eval_files = pair_files(inputs.order, plan, inputs.tokenizer)
    row_count = count_rows(train_file.path)
    total = row_count + sum(count_rows(file.path) for file in eval_files.values())
    report = DatasetReportBuilder(plan.tokenization.max_length)
    reader = _DatasetReader(inputs.tokenizer, report, _RowProgress(channel, total))
    counts = None
    try:
        training = reader.read(train_file, TRAINING)
        evaluations = {group: reader.read(file, group) for group, file in eval_files.items()}
        used = _split(plan, training, evaluations)
        report.train_on(used.train)
        counts = count_pairs(plan, training, evaluations, used)
    finally:  # also if the data are rejected, when the report is needed most
        inputs.send_reports(report, counts, row_count, row_count)
    warn_of_pairs(training, TRAINING, plan, channel)
    warn_of_repetition(report, channel)
    for group, evaluation in evaluations.items():
        warn_of_pairs(evaluation, group, plan, channel)
        warn_of_leaks(report, group, len(evaluation.pairs), channel)
    for name, file in {TRAINING: train_file, **eval_files}.items():
        pairs = used.train if name == TRAINING else used.evals[name]
        for warning in warn_of_lost_text(inputs.tokenizer, name, file.path, pairs):
            channel.send(warning)
    warn_of_missed_evaluations(planned_steps(len(used.train), plan), plan, channel)
    return PreparedData(used.train, used.evals, counts)


def _split(
    plan: TrainingPlan, training: TokenizedPairs, evaluations: Mapping[str, TokenizedPairs]
) -> UsedPairs:
    """Return the pairs to train on and the pairs to evaluate on."""
    evals = {group: evaluation.pairs for group, evaluation in evaluations.items()}
    if EVAL in evals or plan.data.eval_fraction is None:
        return UsedPairs(training.drawn, evals)
    seed = plan.data.eval_seed
    if seed is None:  # a plan of an earlier version
        seed = plan.reward_arguments.seed
    train, held_out = split_by_prompt(training, plan.data.eval_fraction, seed)
    return UsedPairs(train, {EVAL: held_out, **evals})


def held_out_rows(
    order: WorkOrder, plan: TrainingPlan, tokenizer: PairTokenizer, on_rows: OnRows
) -> frozenset[int]:
    """Return the places, from 0, of the rows that a job held out from its training file.

    Args:
        order: an order with that file.
        plan: the plan of the job.
        tokenizer: the tokenizer of the plan.
        on_rows: called with the number of tokenised rows; may raise to stop.

    Raises:
        TrainerError: the pairs cannot be tokenised.
    """
    if plan.data.eval is not None or plan.data.eval_fraction is None:
        return frozenset()
    train_file, _ = pair_files(order, plan, tokenizer)
    tokenized = tokenize_pairs(train_file, tokenizer, PairObserver(on_rows=on_rows))
    held_out = _split(plan, tokenized, {}).evals[EVAL]
    return frozenset(held_out.records["row"].tolist())


def report_sample(inputs: DataInputs) -> None:
    """Send reports on a sample of a large dataset, for clients that wait for a response.

    The same dataset gives the same sample. Errors in the data are reported but not raised, because
    ``prepare_data`` finds them again.
    """
    train_file, eval_files = pair_files(inputs.order, inputs.plan, inputs.tokenizer)
    row_count = count_rows(train_file.path)
    if row_count <= LARGE_ROWS or (train_file.entry and train_file.entry.path.exists()):
        return
    report = DatasetReportBuilder(inputs.plan.tokenization.max_length)
    reader = _DatasetReader(inputs.tokenizer, report, _RowProgress(inputs.channel, 0))
    for dataset, file in {TRAINING: train_file, **eval_files}.items():
        rows = row_count if file is train_file else count_rows(file.path)
        target = Path(f"sample-{dataset}.jsonl")
        write_sample(file.path, rows, min(rows, SAMPLE_ROWS), target)
        with suppress(TrainerError):
            reader.read(replace(file, path=target, entry=None), dataset)
        target.unlink()
    inputs.send_reports(report, None, SAMPLE_ROWS, row_count)


@dataclass
class _RowProgress:
    """Sends the number of tokenised rows at most once per second, and stops on request."""

    channel: Channel
    total: int  # 0: send nothing
    started_at: float = field(default_factory=time.monotonic)
    sent_at: float = field(default_factory=time.monotonic)
    before: int = 0  # rows of earlier files

    def report(self, count: int) -> None:
        """Report that ``count`` rows of the current file are done.

        Raises:
            StoppedError: the supervisor requested a stop.
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
    """Tokenises datasets and adds all of their pairs to the report."""

    tokenizer: PairTokenizer
    report: DatasetReportBuilder
    progress: _RowProgress

    def read(self, file: PairFile, dataset: str) -> TokenizedPairs:
        """Tokenise the "training" dataset, or an eval dataset by the group of its metrics.

        Raises:
            TrainerError: it names the dataset unless it is the training dataset.
        """

        def on_block(
            block: PairBlock, is_drawn: NDArray[np.bool_], is_usable: NDArray[np.bool_]
        ) -> None:
            if dataset == TRAINING:
                self.report.add_training(block.where(is_drawn), is_usable[is_drawn])
            else:
                self.report.add_eval(block, is_usable, dataset)

        observer = PairObserver(
            on_block, partial(self.report.add_invalid_row, dataset), self.progress.report
        )
        try:
            tokenized = tokenize_pairs(file, self.tokenizer, observer)
        except TrainerError as error:
            if dataset == TRAINING:
                raise
            detail = f"{dataset} pairs: {error.detail}"
            raise TrainerError(error.code, detail, error.step) from error
        self.progress.before += tokenized.row_count
        return tokenized
