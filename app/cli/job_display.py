"""Prints jobs, previews and metrics as tables."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from app.cli.accuracies import accuracy_rows
from app.cli.client import page_of_job
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import moment, print_fields, print_json, print_table, size
from plaudit import Job, Metrics, NotFoundError, Plaudit
from plaudit.models import EvalFraction, EventRead, JobItem, JobPreview

#: Events that end a phase.
PHASE_ENDS = ("phase", "claimed", "attempt_failed", "released", "worker_lost", "succeeded")
MEMORY_PARTS = ("weights", "optimizer", "activations", "overhead")
#: Memory of common GPUs, in GB.
CARDS_GB = (24, 48, 80, 141)


def show_job(client: Plaudit, job: Job, *, as_json: bool) -> None:
    """Print a job with its newest metrics."""
    if as_json:
        print_json(job.to_dict())
        return
    failure = job.failure
    events = list(client.jobs.events(job.id, follow=False))
    published = published_step(events)
    loss = client.jobs.metrics(job.id, keys="train/loss").latest().get("train/loss")
    print_fields(
        (
            ("id", job.id),
            ("name", job.name),
            ("page", page_of_job(client, job.id)),
            ("status", job.status),
            ("phase", job.phase),
            ("progress", steps(job)),
            ("base model", job.base_model),
            ("notes", job.notes),
            ("train data", job.spec.train_dataset),
            ("eval data", _held_out(job.spec.eval_dataset)),
            *((f"… {name}", dataset) for name, dataset in job.spec.eval_datasets.items()),
            ("attempt", job.attempt),
            ("worker", job.worker),
            ("queued", moment(job.queued_at)),
            ("started", moment(job.started_at)),
            ("finished", moment(job.finished_at)),
            ("time spent", _time_spent(events)),
            ("peak memory", _peak_memory(client, job)),
            ("train/loss", _rounded(loss)),
            ("published step", published and f"{published} of {job.progress.step} completed steps"),
            *accuracy_rows(client, job, published),
            ("adapter", job.adapter_id),
            ("failure", failure and f"{failure.code}: {failure.detail}"),
            ("what to do", failure and failure.hint),
            *(("warning", warning.message) for warning in job.warnings),
        )
    )


def phase_seconds(events: Iterable[EventRead]) -> dict[str, float]:
    """Return the seconds of each phase that has ended, summed over all attempts.

    Phases are in the order in which they first started. A phase lasts until the next phase or the
    end of the attempt.
    """
    spent: dict[str, float] = {}
    phase, since = None, None
    for event in events:
        if event.type not in PHASE_ENDS:
            continue
        if phase is not None and since is not None:
            spent[phase] = spent.get(phase, 0.0) + (event.at - since).total_seconds()
        phase, since = event.data.get("phase"), event.at
    return spent


def published_step(events: Iterable[EventRead]) -> int | None:
    """Return the step whose model is published; None unless early stopping chose another one."""
    steps = [each.data["published_step"] for each in events if "published_step" in each.data]
    return steps[-1] if steps else None


def _time_spent(events: Iterable[EventRead]) -> str | None:
    spent = phase_seconds(events)
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items()) or None


def _peak_memory(client: Plaudit, job: Job) -> str | None:
    """Return the measured peak and the estimate; None until training has ended."""
    try:
        memory = client.jobs.report(job.id, "memory")
    except NotFoundError:
        return None
    peak = memory.get("measured_peak_bytes")
    return None if peak is None else f"{size(peak)}, estimated {size(memory['total_bytes'])}"


def show_estimate(preview: JobPreview, *, as_json: bool) -> None:
    """Print the estimated memory of a job, by part, and which GPUs have that much.

    Raises:
        CommandError: no worker has made an estimate in time.
    """
    memory = preview.reports.get("memory")
    if memory is None:
        raise CommandError(
            "No worker has estimated this job yet.",
            ExitCode.FAILED,
            "Repeat the command. If no worker runs, start one ('plaudit serve' runs one).",
        )
    if as_json:
        print_json(memory)
        return
    total = memory["total_bytes"]
    print_fields(
        (
            *((name, size(memory[f"{name}_bytes"])) for name in MEMORY_PARTS),
            ("total", size(total)),
            ("this worker's device", size(memory["device_bytes"])),
            (
                "fits",
                ", ".join(f"{card} GB" for card in CARDS_GB if total <= card * 10**9) or "none",
            ),
        )
    )


def show_preview(preview: JobPreview, *, as_json: bool) -> None:
    """Print the plan for a spec."""
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
    """Print one table for each group of metrics, such as train and eval.

    A group with more metrics than steps has one row per metric: an evaluation has twenty metrics
    at a few steps. The others have one row per step.
    """
    if as_json:
        print_json(metrics.to_dict())
        return
    groups: dict[str, list[str]] = {}
    for name in metrics.columns:
        if name != "step":
            groups.setdefault(name.partition("/")[0], []).append(name)
    if not groups:
        typer.echo("No metrics yet.", err=True)
        raise typer.Exit(ExitCode.SUCCEEDED)
    for i, names in enumerate(groups.values()):
        if i:
            typer.echo()
        _show_group(metrics, names)


def _show_group(metrics: Metrics, names: list[str]) -> None:
    columns = [metrics.columns[name] for name in names]
    rows: list[list[str | None]] = [
        [f"{step:.0f}", *map(_rounded, values)]
        for step, *values in zip(metrics.columns["step"], *columns, strict=True)
        if any(value is not None for value in values)
    ]
    head, body = ["step", *names], rows
    if len(names) > len(rows):
        head = ["step", *(str(row[0]) for row in rows)]
        body = [[name, *(row[i] for row in rows)] for i, name in enumerate(names, 1)]
    print_table(head, body)


def steps(job: JobItem | Job) -> str | None:
    """Return the progress as ``30 of 53 steps``, or None before training."""
    progress = job.progress
    if progress.step is None:
        return None
    return f"{progress.step} of {progress.total_steps} steps"


def _held_out(asked: str | EvalFraction | None) -> str | None:
    return f"{asked.fraction:.0%} of them" if isinstance(asked, EvalFraction) else asked


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
