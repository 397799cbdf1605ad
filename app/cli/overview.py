"""``plaudit queue``, ``workers``, ``usage`` and ``base-models``."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.client import connect
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
from plaudit.models import BaseModelRead, WorkerRead

REASONS = {
    "no_worker": "no worker is running",
    "no_gpu": "no worker with a GPU is running",
    "quota": "the limit of running jobs is reached",
    "backoff": "it failed and will be retried",
    "workers_busy": "all workers are busy",
    "behind_priority": "other jobs are ahead of it",
    "next": "it starts next",
}


def queue(as_json: JsonOption = False) -> None:
    """List queued jobs, evaluations and score batches, and the reasons why they wait."""
    with connect() as client:
        waiting = list(client.queue.list())
        workers = list(client.workers.list())
    if as_json:
        print_json({"object": "list", "data": [item.to_dict() for item in waiting]})
        return
    print_table(
        ("position", "job", "priority", "queued", "reason"),
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
    if not workers:
        notes.print(plain("No worker is running.", "dim"))
    # Jobs do not wait for the slots of other queues.
    for name in dict.fromkeys(worker.queue for worker in workers):
        of_queue = [worker for worker in workers if worker.queue == name]
        busy, slots = sum(w.busy for w in of_queue), sum(w.slots for w in of_queue)
        notes.print(plain(f"queue {name}: {busy} of {slots} slots busy", "dim"))


def workers(as_json: JsonOption = False) -> None:
    """List live workers with their devices and the results of their machines' checks."""
    with connect() as client:
        found = list(client.workers.list())
    if as_json:
        print_json({"object": "list", "data": [worker.to_dict() for worker in found]})
        return
    print_table(
        ("host", "queue", "state", "busy", "devices", "checks"),
        (
            (
                worker.host,
                worker.queue,
                worker.state,
                f"{worker.busy} of {worker.slots}",
                ", ".join(str(device.get("name")) for device in worker.devices) or "CPU",
                _checks(worker),
            )
            for worker in found
        ),
    )
    # A worker has a row for each queue, all with the same checks.
    failed = {(w.host, c.check, c.detail) for w in found for c in w.doctor if c.status == "failed"}
    for host, check, detail in sorted(failed):
        notes.print(plain(f"{host}: {check}: {detail}", "red"))


def usage(
    days: Annotated[int, typer.Option(min=1, max=366, help="Number of days to show.")] = 30,
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
        str | None, typer.Argument(metavar="[ID]", help="Show all fields of this base model.")
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
            ("chat template", _yes_or_no(entry.has_chat_template)),
            ("inspected", _yes_or_no(entry.is_inspected)),
        )
    )


def _checks(worker: WorkerRead) -> str | None:
    """Return the result of the checks; None until they have ended."""
    if not worker.doctor:
        return None
    failed = [check.check for check in worker.doctor if check.status == "failed"]
    return f"failed: {', '.join(failed)}" if failed else "passed"


def _millions(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:.0f}M"


def _yes_or_no(fact: bool | None) -> str | None:
    return None if fact is None else ("yes" if fact else "no")
