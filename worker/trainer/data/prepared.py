"""The pairs of a job, and the counts of used, held-out and dropped pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.domain.plan import TrainingPlan
from worker.trainer.data.pair_table import PairTable
from worker.trainer.data.pairs import TokenizedPairs


@dataclass(frozen=True)
class PreparedData:
    """Pairs to train and to evaluate on; ``counts`` is the result of ``count_pairs``."""

    train: PairTable
    eval: PairTable
    counts: dict[str, Any]

    @property
    def eval_left_out(self) -> float:
        """Share of the eval pairs that are not evaluated (0 to 1)."""
        evaluation = self.counts["eval"]
        return 0.0 if evaluation is None else float(evaluation["left_out_share"])


def count_pairs(
    plan: TrainingPlan,
    training: TokenizedPairs,
    evaluation: TokenizedPairs | None,
    used: tuple[PairTable, PairTable],
) -> dict[str, Any]:
    """Return the pair counts for the model card, run.lock.json and the dataset report.

    ``uploaded`` is the sum of ``used``, ``held_out`` and the counts of ``dropped``. Without an eval
    dataset the eval pairs come from the training file and have the same ``left_out_share``.
    """
    train_pairs, eval_pairs = used
    held_out = 0 if evaluation else len(eval_pairs)
    train = {
        **_counts(training, len(train_pairs) + held_out),
        "held_out": held_out,
        "used": len(train_pairs),
    }
    document: dict[str, Any] = {
        "max_length": plan.tokenization.max_length,
        "overlong": plan.tokenization.overlong,
        "train": train,
        "eval": None,
    }
    if eval_pairs:
        source = evaluation or training
        left_out = source.overlong.count + source.unrenderable_count
        document["eval"] = {
            **(_counts(evaluation, len(eval_pairs)) if evaluation else {}),
            "used": len(eval_pairs),
            "left_out_share": left_out / source.row_count,
        }
    return document


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
