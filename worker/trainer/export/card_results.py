"""The results on a model card, and the pairs that they cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.metric_names import BEFORE, EVAL, before, eval_group

#: Metrics of the table, if they were measured.
_SHOWN = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "loss",
    "margin_mean",
    "margin_std",
    "ece",
    "brier",
    "length_spearman",
    "length_baseline",
    "accuracy_when_shorter",
    "pairs",
)


def results(metrics: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
    """Return the lines about the pairs of ``eval_dataset`` and of each named dataset.

    Args:
        metrics: metrics of the evaluations before and after training.
        counts: the result of ``count_pairs``.
    """
    named = _named_results(metrics, counts)
    main = _main_results(metrics)
    if not main and not named:
        return [
            "No pairs were held out, so the accuracy of this adapter is unknown, and this card has "
            "no `model-index`."
        ]
    space = [""] if main and named else []
    return [*main, *(_left_out(counts) if main else []), *space, *named]


def named_counts(counts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the name and the pair counts of each named evaluation dataset."""
    return [*counts.get("eval_datasets", {}).items()]


def _main_results(metrics: Mapping[str, float]) -> list[str]:
    rows = [
        f"| {name} | {_number(metrics, BEFORE, name)} | {_number(metrics, EVAL, name)} |"
        for name in _SHOWN
        if f"{EVAL}/{name}" in metrics
    ]
    if not rows:
        return []
    return ["| metric | before training | after training |", "|---|---|---|", *rows]


def _left_out(counts: Mapping[str, Any]) -> list[str]:
    """Return which pairs the results cover; it is shown with every accuracy."""
    evaluation = counts["eval"]
    if evaluation is None:
        return []
    share, used = evaluation["left_out_share"], evaluation["used"]
    if not share:
        return ["", f"Measured on all {used} held-out pairs."]
    return [
        "",
        f"Measured on {used} held-out pairs of at most {counts['max_length']} tokens. "
        f"{share:.1%} of the pairs are longer or could not be rendered, and were left out: the "
        "accuracy does not hold for them.",
    ]


def _named_results(metrics: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, part in named_counts(counts):
        group = eval_group(name)
        numbers = [
            _number(metrics, before(group), "accuracy"),
            *(
                _number(metrics, group, metric)
                for metric in ("accuracy", "accuracy_low", "accuracy_high", "loss")
            ),
        ]
        share = f"{part['left_out_share']:.1%}"
        rows.append(f"| {name} | {part['used']} | {share} | {' | '.join(numbers)} |")
    if not rows:
        return []
    return [
        "| dataset | pairs | left out | accuracy before training | accuracy | from | to | loss |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        f"Pairs of more than {counts['max_length']} tokens, and pairs that could not be rendered, "
        "are left out of these datasets: the accuracy does not hold for them.",
    ]


def _number(metrics: Mapping[str, float], group: str, name: str) -> str:
    value = metrics.get(f"{group}/{name}")
    return "–" if value is None else f"{value:.4g}"
