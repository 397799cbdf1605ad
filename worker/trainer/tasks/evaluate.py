"""Judge adapters on a dataset: scores, metrics, probes and baselines."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from app.domain.evaluation import UNTRAINED, EvaluationOrder, JudgedAdapter
from app.domain.judging import metrics
from app.domain.judging.metrics import NoPairsError
from app.domain.judging.score_table import ScoredRow
from app.domain.judging.suites import SUITES, MissingRows
from app.domain.lifecycle import FailureCode, Phase
from app.domain.plan import TrainingPlan
from app.domain.progress import Evaluated, PhaseChanged, Reported
from app.domain.rows import replies_of
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.loading import device_config_for, load_base
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.preparation import held_out_rows
from worker.trainer.data.row_files import read_rows
from worker.trainer.evaluation.judged_rows import (
    JudgedRow,
    JudgedRows,
    judged_rows,
    training_overlap,
)
from worker.trainer.evaluation.plots import model_plots
from worker.trainer.evaluation.probing import run_probes, worst_pairs, write_scores
from worker.trainer.evaluation.resumable_scoring import (
    LazyModel,
    ResumableScoring,
    packaged_model,
    resume_fingerprint,
)
from worker.trainer.inspection.base_model_files import check_base_model_unchanged

SCORES = "scores"
#: Limits that keep the documents below the size limit of a message.
WORST_PAIRS, WORST_PAIR_CHARACTERS = 20, 1000


@dataclass(frozen=True)
class _Model:
    """One of the models to judge: an adapter, or the base model with a random head."""

    id: str
    plan: TrainingPlan
    scorer: LazyModel
    adapter: JudgedAdapter | None


def run(order: WorkOrder, channel: Channel) -> None:
    """Score every row with every model, and send ``evaluated`` at the end.

    Raises:
        StoppedError: the supervisor requested a stop.
        TrainerError: with the code with which the evaluation fails.
    """
    wanted = order.evaluation
    if wanted is None or order.eval_file is None:
        raise TrainerError(FailureCode.INTERNAL, "the order to evaluate has no dataset")
    first = wanted.adapters[0]
    check_base_model_unchanged(order, first.plan.base_model.digest)
    channel.send(PhaseChanged(phase=Phase.EVALUATING))
    directory = Path(SCORES)
    directory.mkdir(exist_ok=True)
    replies = [len(replies_of(row)) for row in read_rows(order.eval_file)]
    models = [_untrained(order, first), *(_adapter(order, each) for each in wanted.adapters)]
    fingerprint = resume_fingerprint(order, wanted, first.plan)
    scoring = ResumableScoring(order, channel, fingerprint, _sequence_bound(wanted, replies))
    judged, worst, tables = [], {}, []
    for model in models:
        entry, pairs, table = _judge(order, wanted, model, scoring, directory)
        judged.append(entry)
        worst[model.id] = pairs
        tables.append(table)
        model.scorer.release()
        _free_device()
    scoring.finish()
    channel.send(Reported(name="worst_pairs", document={"models": worst}))
    channel.send(Reported(name="full", document={"plots": _plots(judged, tables)}))
    channel.send(
        Evaluated(
            directory=directory.name,
            files=file_entries(directory),
            result={
                "rows": len(replies),
                "models": judged,
                # Use the first adapter's rows: the untrained head has the same tokenizer.
                "baselines": _baselines(tables[1], wanted, _missing(wanted, judged[1])),
            },
        )
    )


def _judge(
    order: WorkOrder,
    wanted: EvaluationOrder,
    model: _Model,
    scoring: ResumableScoring,
    directory: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[ScoredRow]]:
    """Return the result of one model, its worst pairs and its score table."""
    spec, plan = wanted.spec, model.plan
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    assert order.eval_file is not None
    tokenized = judged_rows(
        Path(order.eval_file), tokenizer, overlong=spec.overlong, on_chunk=scoring.stop_if_wanted
    )
    if not tokenized.rows:
        _refuse_all(tokenized.summary(), plan)

    def score(stage: str, sequences: Sequence[list[int]]) -> list[float]:
        return scoring.score(model.scorer, f"{model.id}/{stage}", sequences)

    scores = _by_row(tokenized.rows, score)
    write_scores(directory / f"{file_stem(model.id)}.jsonl", tokenized.rows, scores)
    table = [row.scored(each) for row, each in zip(tokenized.rows, scores, strict=True)]
    entry: dict[str, Any] = {
        "adapter": model.id,
        **tokenized.summary(),
        "metrics": _metrics(table, wanted),
        "suite": _suite(table, wanted, _missing(wanted, tokenized.summary())),
        "training_overlap": None,
        "probes": [],
    }
    if model.adapter is not None:
        entry["training_overlap"] = _overlap(order, model.adapter, tokenizer, tokenized, scoring)
        entry["probes"] = run_probes(spec, tokenized.rows, scores, tokenizer, score)
    pairs = worst_pairs(tokenized.rows, scores, WORST_PAIRS, WORST_PAIR_CHARACTERS)
    return entry, pairs, table


def _overlap(
    order: WorkOrder,
    adapter: JudgedAdapter,
    tokenizer: PairTokenizer,
    tokenized: JudgedRows,
    scoring: ResumableScoring,
) -> dict[str, Any] | None:
    """Return the rows with prompts that the adapter learned from; None without its dataset."""
    if adapter.train_file is None:
        return None
    of_training = order.model_copy(update={"train_file": adapter.train_file})
    held_out = held_out_rows(
        of_training, adapter.plan, tokenizer, lambda _: scoring.stop_if_wanted()
    )
    train_file = Path(adapter.train_file)
    return training_overlap(tokenized.rows, train_file, held_out, scoring.stop_if_wanted)


def _by_row(
    rows: Sequence[JudgedRow], score: Callable[[str, Sequence[list[int]]], list[float]]
) -> list[list[float]]:
    """Return the scores of each row's replies."""
    flat = iter(score("rows", [ids for row in rows for ids in row.ids]))
    return [[next(flat) for _ in row.ids] for row in rows]


def _metrics(table: list[ScoredRow], wanted: EvaluationOrder) -> dict[str, Any]:
    try:
        return metrics.evaluate(table, seed=wanted.spec.seed, slices=wanted.spec.slices)
    except NoPairsError as error:
        raise TrainerError(FailureCode.DATASET_INVALID, str(error)) from error


def _missing(wanted: EvaluationOrder, summary: Mapping[str, Any]) -> MissingRows:
    left_out = sum(each["rows"] for each in summary["left_out"].values())
    return MissingRows(skipped=wanted.skipped_rows, left_out=left_out)


def _suite(
    table: list[ScoredRow], wanted: EvaluationOrder, missing: MissingRows
) -> dict[str, Any] | None:
    if wanted.spec.suite is None:
        return None
    result = SUITES[wanted.spec.suite].score(table, missing)
    return {
        "suite": wanted.spec.suite,
        "metrics": result.metrics,
        "overall": result.overall,
        "complete": result.complete,
        "problems": list(result.problems)[:50],
    }


def _baselines(
    table: list[ScoredRow], wanted: EvaluationOrder, missing: MissingRows
) -> dict[str, Any]:
    seed = wanted.spec.seed
    return {
        name: {**metrics.headline(each, seed=seed), "suite": _suite(each, wanted, missing)}
        for name, each in metrics.baselines(table, seed).items()
    }


def _plots(
    judged: Sequence[dict[str, Any]], tables: Sequence[list[ScoredRow]]
) -> dict[str, Any]:  # fmt: skip
    return {
        entry["adapter"]: model_plots(table, entry["metrics"])
        for entry, table in zip(judged, tables, strict=True)
    }


def file_stem(model_id: str) -> str:
    """Return the name of a model's file of scores, without its suffix."""
    return model_id.replace(":", "-")


def _untrained(order: WorkOrder, first: JudgedAdapter) -> _Model:
    """Return the base model with a random head drawn from the evaluation's seed."""
    plan = first.plan
    device_config = device_config_for(plan)
    assert order.evaluation is not None
    seed = order.evaluation.spec.seed

    def load() -> nn.Module:
        set_seed(seed)
        model = load_base(order.model_dir, device_config, plan.head_modules)
        model.config.get_text_config().pad_token_id = plan.tokenization.pad_token_id
        return model

    pad = plan.tokenization.pad_token_id
    scorer = LazyModel(load, pad_token_id=pad, bf16=device_config.bf16)
    return _Model(UNTRAINED, plan, scorer, None)


def _adapter(order: WorkOrder, adapter: JudgedAdapter) -> _Model:
    scorer = packaged_model(order, Path(adapter.directory), adapter.plan)
    return _Model(adapter.id, adapter.plan, scorer, adapter)


def _sequence_bound(wanted: EvaluationOrder, replies: Sequence[int]) -> int:
    """Return the number of sequences to score if no row is left out."""
    probed = 2 * len(wanted.spec.probes) * min(wanted.spec.probe_pairs, len(replies))
    return sum(replies) * (len(wanted.adapters) + 1) + probed * len(wanted.adapters)


def _refuse_all(summary: dict[str, Any], plan: TrainingPlan) -> None:
    reasons = ", ".join(f"{each['rows']} {name}" for name, each in summary["left_out"].items())
    limit = plan.tokenization.max_length
    raise TrainerError(
        FailureCode.PAIRS_OVERLONG if "overlong" in summary["left_out"]
        else FailureCode.DATASET_INVALID,
        f"no row can be scored: {reasons} (max_length is {limit})",
    )  # fmt: skip


def _free_device() -> None:
    """Release the memory of one model before the next is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
