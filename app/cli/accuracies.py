"""Held-out accuracies, each with the share of pairs that it does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.domain.metric_names import BEFORE, EVAL, before, eval_group
from plaudit import APIError, Job, ListedJob, Plaudit


def accuracy_text(metrics: Mapping[str, float], group: str = EVAL) -> str | None:
    """Return ``0.716 (71% left out, limit 64 tokens)``; None without an accuracy."""
    if (accuracy := metrics.get(f"{group}/accuracy")) is None:
        return None
    if not (left_out := metrics.get(f"{group}/left_out", 0)):
        return f"{accuracy:.3f}"
    limit = metrics.get(f"{group}/max_length")
    note = "" if limit is None else f", limit {limit:.0f} tokens"
    return f"{accuracy:.3f} ({left_out:.0%} left out{note})"


def main_accuracy(metrics: Mapping[str, float]) -> str | None:
    """Return the accuracy of ``eval_dataset``, or of the first named dataset, with its name."""
    if (text := accuracy_text(metrics)) is not None:
        return text
    groups = {name.partition("/")[0] for name in metrics if name.endswith("/accuracy")}
    named = sorted(g for g in groups if g.startswith(f"{EVAL}_") and not g.startswith(BEFORE))
    return (
        f"{named[0].removeprefix(f'{EVAL}_')} {accuracy_text(metrics, named[0])}" if named else None
    )


def accuracies_of(client: Plaudit, jobs: Sequence[ListedJob]) -> dict[str, str | None]:
    """Return the accuracy of the adapter of each job that has one, by the job's id."""
    wanted = {job.adapter_id: job.id for job in jobs if job.adapter_id is not None}
    if not wanted:
        return {}
    try:
        found = {each.id: each.metrics for each in client.adapters.list(page_size=100).page().data}
        for adapter_id in wanted.keys() - found.keys():
            found[adapter_id] = client.adapters.get(adapter_id).metrics
    except APIError:  # the key may not read adapters, or one was just deleted
        return {}
    return {job_id: main_accuracy(found[adapter_id]) for adapter_id, job_id in wanted.items()}


def accuracy_rows(client: Plaudit, job: Job, step: int | None) -> list[tuple[str, str | None]]:
    """Return the accuracies of a job before training and at a step; None: at the last one."""
    groups = [EVAL, *(eval_group(name) for name in sorted(job.spec.eval_datasets))]
    figures = [f"{g}/{name}" for g in groups for name in ("accuracy", "left_out", "max_length")]
    earlier = [f"{before(group)}/accuracy" for group in groups]
    metrics = client.jobs.metrics(job.id, keys=",".join([*figures, *earlier])).latest()
    if step is not None:
        keys = ",".join(figures)
        metrics |= client.jobs.metrics(job.id, keys=keys, from_step=step, to_step=step).latest()
    rows: list[tuple[str, str | None]] = []
    for group in groups:
        rows.append((f"{before(group)}/accuracy", accuracy_text(metrics, before(group))))
        rows.append((f"{group}/accuracy", accuracy_text(metrics, group)))
    return rows
