"""Probes: rendered pairs with the scores that the adapter must reproduce after a reload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.rows import as_pair
from worker.reward_model.scoring import ALONE, BATCH_TOKENS, score
from worker.trainer.data.pair_table import Pair
from worker.trainer.data.row_files import read_rows
from worker.trainer.export.trained_adapter import TrainedAdapter

PROBE_PAIRS = 16


def make_probes(
    adapter: TrainedAdapter, train_pairs: Sequence[Pair], eval_pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """Return up to 16 probes: eval pairs, then training pairs if there are too few of them."""
    order = adapter.order
    from_eval, from_training = choose_probes(eval_pairs, train_pairs)
    probes = []
    # Without an eval file the eval pairs were held out from the training file.
    for pairs, file in ((from_eval, order.eval_file), (from_training, None)):
        dataset = "eval" if file else "training"
        probes += _score_probes(adapter, pairs, dataset, str(file or order.train_file))
    return probes


def choose_probes(
    eval_pairs: Sequence[Pair], train_pairs: Sequence[Pair]
) -> tuple[list[Pair], list[Pair]]:
    """Choose up to 16 pairs: eval pairs, then training pairs if there are too few of them."""
    from_eval = _spread_by_length(eval_pairs, PROBE_PAIRS)
    return from_eval, _spread_by_length(train_pairs, PROBE_PAIRS - len(from_eval))


def _spread_by_length(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Choose from the shortest to the longest pair, so that the probes also test padding."""
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    by_length = np.lexsort(([pair.line for pair in pairs], lengths)).tolist()
    if len(by_length) > count:
        by_length = [by_length[i * (len(lengths) - 1) // max(count - 1, 1)] for i in range(count)]
    return [pairs[place] for place in by_length]


def _score_probes(
    adapter: TrainedAdapter, pairs: Sequence[Pair], dataset: str, file: str
) -> list[dict[str, Any]]:
    """Render ``pairs``, which are lines of ``file``, and score each text alone and padded.

    The difference of both scores is the noise of the model's number format on this machine, from
    which the certificate derives its tolerance.
    """
    if not pairs:
        return []
    tokenizer = adapter.tokenizer
    wanted = {pair.line for pair in pairs}
    rows = {row["line"]: row for row in read_rows(file) if row["line"] in wanted}
    ids = [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]

    def scores(batch_tokens: int) -> list[float]:
        return score(
            adapter.model,
            ids,
            pad_token_id=tokenizer.plan.pad_token_id,
            batch_tokens=batch_tokens,
            bf16=adapter.device_config.bf16,
        )

    alone, padded = scores(ALONE), scores(BATCH_TOKENS)
    probes = []
    for i, pair in enumerate(pairs):
        row = rows[pair.line]
        chosen, rejected = tokenizer.render(as_pair(row, *pair.replies) if pair.replies else row)
        probes.append(
            {
                "dataset": dataset,
                "line": pair.line,
                "chosen": chosen,
                "rejected": rejected,
                "chosen_score": alone[2 * i],
                "rejected_score": alone[2 * i + 1],
                "chosen_padded_score": padded[2 * i],
                "rejected_padded_score": padded[2 * i + 1],
            }
        )
    return probes
