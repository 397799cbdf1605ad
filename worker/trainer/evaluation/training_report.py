"""The part of a training job's report page about its held-out pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from app.domain.judging import metrics
from app.domain.judging.score_table import ScoredRow
from worker.trainer.evaluation.plots import model_plots
from worker.trainer.evaluation.scores import Scores

WORST_PAIRS = 20
#: Maximum length of a shown text. The end is kept, because it holds the reply.
CHARACTERS = 1000


def training_report(
    scores: Scores | None,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> dict[str, Any]:
    """Return the document.

    ``model`` and ``baselines`` have the form of an evaluation's; lengths are tokens of prompt and
    reply here. They are absent without held-out pairs.
    """
    document: dict[str, Any] = {
        "plots": {},
        "model": None,
        "baselines": {},
        "worst_pairs": [],
    }
    if scores is None or not len(scores.pairs):
        return document
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
    document["model"] = {"adapter": "held-out pairs", "metrics": found}
    document["plots"] = model_plots(table, found, length_unit="tokens of prompt and reply")
    document["baselines"] = {
        name: metrics.headline(each, seed=seed)
        for name, each in metrics.baselines(table, seed).items()
    }
    document["worst_pairs"] = _worst_pairs(scores, tokenizer)
    return document


def _worst_pairs(scores: Scores, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    order = np.argsort(scores.margins, kind="stable")[:WORST_PAIRS]
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
