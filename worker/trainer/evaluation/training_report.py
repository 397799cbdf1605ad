"""What the report page of a training job shows of the pairs that it is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from app.domain.judging import metrics
from app.domain.judging.score_table import ScoredRow
from app.domain.metric_names import EVAL, TOKENS
from worker.trainer.evaluation.plots import model_plots
from worker.trainer.evaluation.scores import Scores

WORST_PAIRS = 20
#: Of each named dataset. There may be eight, and the document is one message of at most 4 MiB.
WORST_PAIRS_NAMED = 10
#: Of a text the end is shown: it holds the reply.
CHARACTERS = 1000


def training_report(
    scores: Mapping[str, Scores],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> dict[str, Any]:
    """Return the document; ``scores`` are those of each dataset by the group of its metrics.

    ``model`` and ``baselines`` have the form of an evaluation's; lengths are tokens of prompt and
    reply here. They are absent without held-out pairs. ``eval_datasets`` has the same for each
    named dataset.
    """
    named = {group.removeprefix(f"{EVAL}_"): each for group, each in scores.items()}
    main = named.pop(EVAL, None)
    return {
        **_of_dataset("held-out pairs", main, tokenizer, seed, WORST_PAIRS),
        "eval_datasets": {
            name: _of_dataset(name, each, tokenizer, seed, WORST_PAIRS_NAMED)
            for name, each in named.items()
        },
    }


def _of_dataset(
    title: str,
    scores: Scores | None,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    worst: int,
) -> dict[str, Any]:
    if scores is None or not len(scores.pairs):
        return {"plots": {}, "model": None, "baselines": {}, "worst_pairs": []}
    table = [
        ScoredRow(
            line=pair.line,
            prompt=pair.prompt.hex(),
            ranks=(1, 2),
            scores=(float(scores.chosen[i]), float(scores.rejected[i])),
            lengths=(len(pair.chosen), len(pair.rejected)),
            slice=pair.slice,
        )
        for i, pair in enumerate(scores.pairs)
    ]
    found = metrics.evaluate(table, seed=seed)
    return {
        "plots": model_plots(table, found, length_unit=TOKENS),
        "model": {"adapter": title, "metrics": found},
        "baselines": {
            name: metrics.headline(each, seed=seed)
            for name, each in metrics.baselines(table, seed).items()
        },
        "worst_pairs": _worst_pairs(scores, tokenizer, worst),
    }


def _worst_pairs(
    scores: Scores, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[dict[str, Any]]:
    order = np.argsort(scores.margins, kind="stable")[:count]
    return [
        {
            "line": scores.pairs[i].line,
            "slice": scores.pairs[i].slice,
            "margin": float(scores.margins[i]),
            "chosen_score": float(scores.chosen[i]),
            "rejected_score": float(scores.rejected[i]),
            "chosen": str(tokenizer.decode(scores.pairs[i].chosen))[-CHARACTERS:],
            "rejected": str(tokenizer.decode(scores.pairs[i].rejected))[-CHARACTERS:],
        }
        for i in order
        if scores.margins[i] < 0
    ]
