"""``plaudit jobs mirror``: copies the metrics of a job to an experiment tracker."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.jobs import JobId
from app.cli.output import notes, plain
from app.cli.short_ids import full_id
from plaudit.trackers import TRACKERS, open_tracker
from plaudit.trackers import mirror as mirror_job


def mirror(
    job_id: JobId,
    to: Annotated[str, typer.Option(help=f"Tracker: {', '.join(TRACKERS)}.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="Directory for TensorBoard, tracking URI for MLflow, project for the others."
        ),
    ] = None,
) -> None:
    """Copy the metrics of a job to an experiment tracker, live until the job ends."""
    if to not in TRACKERS:
        raise CommandError(
            f"{to} is not a supported tracker; use one of {', '.join(TRACKERS)}.", ExitCode.USAGE
        )
    with connect() as client:
        job = client.jobs.get(full_id(client, "job", job_id))
        with open_tracker(to, job, target) as tracker:
            last = mirror_job(client, job.id, tracker)
    notes.print(plain(f"{last.id} is {last.status}; its metrics were copied to {to}."))
