"""Prints evaluations and comparisons as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from app.cli.output import moment, notes, plain, print_fields, print_json, print_table
from plaudit.models import ComparisonRead, EvaluationItem, EvaluationRead


def show_evaluation(found: EvaluationRead, *, as_json: bool) -> None:
    """Print an evaluation: its result, or while there is none, its state."""
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif found.result is not None:
        _print_result(found, found.result)
    else:
        _print_state(found)


def scored(found: EvaluationItem | EvaluationRead) -> str | None:
    """Return the progress as ``30 of 53 replies``, or None before the first reply is scored."""
    progress = found.progress
    if progress.step is None:
        return None
    return f"{progress.step} of {progress.total_steps} replies"


def _print_state(found: EvaluationRead) -> None:
    failure = found.failure
    print_fields(
        (
            ("id", found.id),
            ("name", found.name),
            ("status", found.status),
            ("phase", found.phase),
            ("progress", scored(found)),
            ("base model", found.base_model),
            ("adapters", ", ".join(found.adapters)),
            ("dataset", found.dataset),
            ("suite", found.suite),
            ("attempt", found.attempt),
            ("queued", moment(found.queued_at)),
            ("started", moment(found.started_at)),
            ("finished", moment(found.finished_at)),
            ("failure", failure and f"{failure.code}: {failure.detail}"),
            ("what to do", failure and failure.hint),
        )
    )


def _print_result(found: EvaluationRead, result: Mapping[str, Any]) -> None:
    typer.echo(found.id)
    rows: list[tuple[object, ...]] = []
    for model in result["models"]:
        metrics, suite = model["metrics"], model["suite"] or {}
        suspicious = [probe["probe"] for probe in model["probes"] if probe["is_suspicious"]]
        rows.append(
            (
                model["adapter"],
                _interval(metrics["accuracy"]),
                _percent((metrics["length"]["balanced"] or {}).get("value")),
                f"{metrics['calibration']['ece']:.3f}",
                _percent(suite.get("overall")),
                ", ".join(suspicious) or None,
            )
        )
    for name, baseline in result["baselines"].items():
        suite = baseline["suite"] or {}
        overall = _percent(suite.get("overall"))
        rows.append((name, _interval(baseline["accuracy"]), None, None, overall, None))
    columns = ("model", "accuracy", "length-balanced", "ECE", "suite", "suspicious probes")
    print_table(columns, rows)
    for model in result["models"]:
        for caution in cautions(model, result["rows"]):
            notes.print(plain(f"{model['adapter']}: {caution}", "dim"))
    if found.suite:
        _print_suite(found.suite, result["models"])


def cautions(model: Mapping[str, Any], rows: int) -> list[str]:
    """Return what makes the figures of a model mean less: rows left out, cut, or trained on."""
    left_out = sum(found["rows"] for found in model["left_out"].values())
    cut, overlap = model["truncated"]["rows"], model["training_overlap"]
    found = []
    if left_out:
        reasons = ", ".join(model["left_out"])
        found.append(f"{left_out} of {rows} rows are left out ({reasons})")
    if cut:
        found.append(f"{cut} of {rows} rows are cut at max_length")
    if overlap and overlap["rows"]:
        found.append(f"the prompts of {overlap['rows']} of {rows} rows are in its training data")
    return found


def _print_suite(name: str, models: list[dict[str, Any]]) -> None:
    """Print the figures of a benchmark by subset, which exist without an overall figure too."""
    figures = [model["suite"]["metrics"] for model in models]
    print_table(
        (name, *(model["adapter"] for model in models)),
        (
            (subset, *(_percent(each.get(subset)) for each in figures))
            for subset in dict.fromkeys(subset for each in figures for subset in each)
        ),
    )
    for model in models:
        if problems := model["suite"]["problems"]:
            more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
            notes.print(plain(f"{model['adapter']} has no overall: {problems[0]}{more}", "dim"))


def print_comparison(found: ComparisonRead) -> None:
    difference = found.difference
    print_fields(
        (
            ("a", f"{found.a.adapter}, accuracy {_percent(found.accuracy_a)}"),
            ("b", f"{found.b.adapter}, accuracy {_percent(found.accuracy_b)}"),
            ("difference", _interval(difference.model_dump())),
            ("only a right", str(found.disagreements.a_better)),
            ("only b right", str(found.disagreements.b_better)),
            ("McNemar p", f"{found.mcnemar.p:.3g}"),
            ("pairs", found.pairs),
            ("uses of these rows", found.dataset_uses),
        )
    )
    if found.slices:
        print_table(
            ("slice", "pairs", "a", "b", "p (Holm)"),
            (
                (
                    s.slice,
                    s.pairs,
                    _percent(s.accuracy_a),
                    _percent(s.accuracy_b),
                    f"{s.p_holm:.3g}",
                )
                for s in found.slices
            ),
        )


def _interval(found: Mapping[str, Any]) -> str:
    value = _percent(found["value"])
    if not found["interval"]:
        return f"{value}"
    low, high = map(_percent, found["interval"])
    return f"{value} ({low} to {high})"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
