"""Jobs, previews and metrics for people."""

from __future__ import annotations

import typer

from app.cli.client import page_of_job
from app.cli.exit_codes import ExitCode
from app.cli.output import moment, print_fields, print_json, print_table
from app.cli.watching import newest_metrics
from plaudit import Job, Metrics, Plaudit
from plaudit.models import EvalFraction, JobItem, JobPreview


def show_job(client: Plaudit, job: Job, *, as_json: bool) -> None:
    """A job with its newest metrics."""
    if as_json:
        print_json(job.to_dict())
        return
    failure = job.failure
    print_fields(
        (
            ("id", job.id),
            ("name", job.name),
            ("page", page_of_job(client, job.id)),
            ("status", job.status),
            ("phase", job.phase),
            ("progress", steps(job)),
            ("base model", job.base_model),
            ("train on", job.spec.train_dataset),
            ("judged by", _held_out(job.spec.eval_dataset)),
            ("attempt", job.attempt),
            ("worker", job.worker),
            ("queued", moment(job.queued_at)),
            ("started", moment(job.started_at)),
            ("finished", moment(job.finished_at)),
            *((name, f"{value:.4g}") for name, value in newest_metrics(client, job.id).items()),
            ("adapter", job.adapter_id),
            ("failure", failure and f"{failure.code}: {failure.detail}"),
            ("what to do", failure and failure.hint),
            *(("warning", warning.message) for warning in job.warnings),
        )
    )


def show_preview(preview: JobPreview, *, as_json: bool) -> None:
    """What a spec would become."""
    if as_json:
        print_json(preview.to_dict())
        return
    trained, total = preview.trainable_parameters, preview.total_parameters
    print_fields(
        (
            ("steps", preview.steps),
            ("trained", f"{trained:,} of {total:,} parameters ({trained / total:.2%})"),
            *((f"lora {name}", value) for name, value in preview.adapter_config.items()),
            *(("warning", warning.message) for warning in preview.warnings),
        )
    )


def show_metrics(metrics: Metrics, *, as_json: bool) -> None:
    """A row a step, a column a metric."""
    if as_json:
        print_json(metrics.to_dict())
        return
    names = [name for name in metrics.columns if name != "step"]
    if not names:
        typer.echo("No metrics yet.", err=True)
        raise typer.Exit(ExitCode.SUCCEEDED)
    rows = zip(metrics.columns["step"], *(metrics.columns[name] for name in names), strict=True)
    print_table(
        ("step", *names),
        ([f"{step:.0f}", *(_rounded(value) for value in values)] for step, *values in rows),
    )


def steps(job: JobItem | Job) -> str | None:
    """``30 of 53 steps``."""
    progress = job.progress
    if progress.step is None:
        return None
    return f"{progress.step} of {progress.total_steps} steps"


def _held_out(asked: str | EvalFraction | None) -> str | None:
    return f"{asked.fraction:.0%} of them" if isinstance(asked, EvalFraction) else asked


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
