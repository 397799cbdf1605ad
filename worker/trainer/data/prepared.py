"""The pairs of a job, and the counts of used, held-out and dropped pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.metric_names import EVAL
from app.domain.plan import TrainingPlan
from worker.trainer.data.pair_table import PairTable
from worker.trainer.data.pairs import TokenizedPairs


@dataclass(frozen=True)
class UsedPairs:
    """Pairs to train on, and those to evaluate on by the group of their metrics."""

    train: PairTable
    evals: Mapping[str, PairTable]

    @property
    def eval(self) -> PairTable:
        """The pairs of ``eval_dataset``, or none."""
        return self.evals.get(EVAL, self.train[:0])


@dataclass(frozen=True)
class EvalSet:
    """Pairs to evaluate on."""

    group: str
    """Group of the metrics: "eval", or "eval_" and the name of the dataset."""
    pairs: PairTable
    left_out: float
    """Share of the dataset's pairs that are not evaluated."""


@dataclass(frozen=True)
class PreparedData(UsedPairs):
    """Pairs to train and to evaluate on, with ``count_pairs`` of them."""

    counts: dict[str, Any]

    def eval_sets(self) -> list[EvalSet]:
        """Return the pairs of each evaluation, those of ``eval_dataset`` first."""
        named = self.counts.get("eval_datasets", {})
        counts = {EVAL: self.counts["eval"]}
        counts |= {f"{EVAL}_{name}": of_dataset for name, of_dataset in named.items()}
        return [
            EvalSet(group, pairs, float(counts[group]["left_out_share"]))
            for group, pairs in self.evals.items()
        ]


def count_pairs(
    plan: TrainingPlan,
    training: TokenizedPairs,
    evaluations: Mapping[str, TokenizedPairs],
    used: UsedPairs,
) -> dict[str, Any]:
    """Return the pair counts for the model card, run.lock.json and the dataset report.

    ``uploaded`` is the sum of ``used``, ``held_out`` and the counts of ``dropped``. Without an eval
    dataset the eval pairs come from the training file and have the same ``left_out_share``.
    """
    evaluation = evaluations.get(EVAL)
    held_out = 0 if evaluation else len(used.eval)
    train = {
        **_counts(training, len(used.train) + held_out),
        "held_out": held_out,
        "used": len(used.train),
    }
    document: dict[str, Any] = {
        "max_length": plan.tokenization.max_length,
        "overlong": plan.tokenization.overlong,
        "train": train,
        "eval": None,
    }
    if used.eval:
        document["eval"] = {
            **(_counts(evaluation, len(used.eval)) if evaluation else {}),
            "used": len(used.eval),
            "left_out_share": _left_out_share(evaluation or training),
        }
    named = {
        group.removeprefix(f"{EVAL}_"): {
            **_counts(tokenized, len(tokenized.pairs)),
            "used": len(tokenized.pairs),
            "left_out_share": _left_out_share(tokenized),
        }
        for group, tokenized in evaluations.items()
        if group != EVAL
    }
    return {**document, **({"eval_datasets": named} if named else {})}


def _left_out_share(tokenized: TokenizedPairs) -> float:
    return (tokenized.overlong.count + tokenized.unrenderable_count) / tokenized.row_count


def _counts(tokenized: TokenizedPairs, kept: int) -> dict[str, Any]:
    return {
        "uploaded": tokenized.row_count,
        "dropped": {
            "unrenderable": tokenized.unrenderable_count,
            "overlong": tokenized.overlong.count,
            "not_drawn": len(tokenized.pairs) - kept,
        },
        "truncated": tokenized.truncated.count,
    }
