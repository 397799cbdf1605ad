"""``plaudit queue``, ``usage``, ``base-models``, ``estimate``: what the service does and offers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.job_display import show_estimate
from app.cli.output import (
    JsonOption,
    moment,
    notes,
    plain,
    print_fields,
    print_json,
    print_table,
    size,
)
from app.cli.spec_files import read_spec
from plaudit.models import BaseModelRead

REASONS = {
    "no_worker": "no worker is running",
    "quota": "the limit of running jobs is reached",
    "backoff": "it failed and is retried soon",
    "workers_busy": "all workers are busy",
    "behind_priority": "other jobs come first",
    "next": "it starts next",
}


def queue(as_json: JsonOption = False) -> None:
    """List waiting jobs with their positions and the reasons why they wait."""
    with connect() as client:
        waiting = list(client.queue.list())
        workers = list(client.workers.list())
    if as_json:
        print_json({"object": "list", "data": [item.to_dict() for item in waiting]})
        return
    print_table(
        ("place", "job", "priority", "queued", "why it waits"),
        (
            (
                item.position,
                item.job_id,
                item.priority,
                moment(item.queued_at),
                REASONS.get(item.reason, item.reason),
            )
            for item in waiting
        ),
    )
    busy, slots = sum(w.busy for w in workers), sum(w.slots for w in workers)
    notes.print(plain(f"{len(workers)} workers, {busy} of {slots} slots busy", "dim"))


def usage(
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days back.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Show device time, stored bytes and scored tokens per day."""
    with connect() as client:
        used = client.usage.per_day(days)
    if as_json:
        print_json({"object": "list", "data": [item.to_dict() for item in used]})
        return
    print_table(
        ("day", "device hours", "stored", "scored tokens"),
        (
            (
                item.day.isoformat(),
                f"{item.device_seconds / 3600:.2f}",
                size(item.stored_bytes),
                item.scored_tokens,
            )
            for item in used
        ),
    )


def base_models(
    base_model_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One of them, with everything.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the base models that jobs may use."""
    with connect() as client:
        if base_model_id is not None:
            entry = client.base_models.get(base_model_id)
            print_json(entry.to_dict()) if as_json else _show(entry)
            return
        entries = list(client.base_models.list())
    if as_json:
        print_json({"object": "list", "data": [entry.to_dict() for entry in entries]})
        return
    print_table(
        ("id", "parameters", "license", "description"),
        (
            (entry.id, _millions(entry.parameter_count), entry.license, entry.description)
            for entry in entries
        ),
    )


def _show(entry: BaseModelRead) -> None:
    print_fields(
        (
            ("id", entry.id),
            ("source", entry.source),
            ("revision", entry.revision),
            ("description", entry.description),
            ("license", entry.license),
            ("architecture", entry.architecture),
            ("parameters", _millions(entry.parameter_count)),
            ("max length", entry.max_length),
            ("head", ", ".join(entry.head_modules or ())),
            ("auto targets", ", ".join(entry.default_targets or ())),
            ("chat template", _said(entry.has_chat_template)),
            ("inspected", _said(entry.is_inspected)),
        )
    )


def _millions(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:.0f}M"


def _said(fact: bool | None) -> str | None:
    return None if fact is None else ("yes" if fact else "no")


def estimate(
    spec: Annotated[
        Path, typer.Argument(help="A job spec in TOML or JSON; - reads it from stdin.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Estimate the memory that a job needs, by part, and which GPUs have it; store nothing."""
    document = read_spec(spec)
    with connect() as client:
        show_estimate(client.jobs.preview(document), as_json=as_json)
