"""Prints a dataset report as tables: sizes, problems with their lines, and text lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from app.cli.output import print_fields, print_table
from plaudit.models import DatasetReport

_LINES_SHOWN = 10


def print_report(answer: DatasetReport) -> None:
    """Print the API's dataset report as three tables."""
    report = answer.report
    longer = report["longer_is_better"]
    print_fields(
        (
            ("dataset", answer.dataset_id),
            ("tokens of", answer.base_model),
            ("max length", report["max_length"]),
            ("rows examined", _rows(report)),
            ("pairs", report["rows"]),
            ("prompts", report["prompts"]),
            ("longer is better", None if longer is None else f"{longer:.3f}"),
        )
    )
    invalid = report["invalid"]
    findings = report["findings"] | {
        "invalid": {"count": invalid["count"], "lines": [row["line"] for row in invalid["rows"]]}
    }
    typer.echo()
    print_table(
        ("finding", "pairs", "first lines"),
        (
            (name.replace("_", " "), found["count"], _lines(found))
            for name, found in findings.items()
        ),
    )
    typer.echo()
    columns = ("mean", "p50", "p90", "p99", "max")
    print_table(
        ("tokens", *columns),
        (
            (name, *(_rounded(lengths.get(column)) for column in columns))
            for name, lengths in report["tokens"].items()
        ),
    )


def _rows(report: Mapping[str, Any]) -> str | None:
    """Return how many rows were examined; of a large dataset, the first report uses a sample."""
    if "rows_in_all" not in report:  # a report of an earlier version
        return None
    looked_at, in_all = report["rows_looked_at"], report["rows_in_all"]
    return f"all {in_all}" if looked_at == in_all else f"a sample of {looked_at} of {in_all}"


def _lines(found: Any) -> str:
    shown = ", ".join(str(line) for line in found["lines"][:_LINES_SHOWN])
    return f"{shown}, …" if found["count"] > _LINES_SHOWN else shown


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"
