"""``plaudit jobs``: submit, follow and control training jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.accuracies import accuracies_of
from app.cli.client import connect, page_of_job
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.job_display import show_job, show_metrics, show_preview, steps
from app.cli.job_notes import note
from app.cli.job_options import (
    BaseModelOption,
    DatasetOption,
    EvalDatasetOption,
    JobId,
    WatchOption,
    with_datasets,
)
from app.cli.output import (
    AfterOption,
    JsonOption,
    LimitOption,
    moment,
    notes,
    plain,
    print_page,
    print_text,
)
from app.cli.short_ids import full_id
from app.cli.spec_commands import init
from app.cli.spec_files import parse_overrides, read_spec
from app.cli.watching import watch
from plaudit import Job, Plaudit
from plaudit.trackers import TRACKERS, open_tracker
from plaudit.trackers import mirror as mirror_job

commands = typer.Typer(help="Submit, follow and control training jobs.", no_args_is_help=True)


commands.command()(init)
commands.command()(note)


@commands.command()
def submit(
    spec: Annotated[
        Path | None, typer.Argument(help="A job spec in TOML or JSON; - reads it from stdin.")
    ] = None,
    dataset: DatasetOption = None,
    eval_dataset: EvalDatasetOption = None,
    base_model: BaseModelOption = None,
    is_watched: WatchOption = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan without creating a job.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Queue a training job from a spec, or with --dataset, --base-model and the defaults."""
    document = {} if spec is None else read_spec(spec)
    if spec is None and (dataset is None or base_model is None):
        raise CommandError(
            "A spec, or --dataset and --base-model, are required.",
            ExitCode.USAGE,
            "Write a spec with 'plaudit jobs init'.",
        )
    with connect() as client:
        document = with_datasets(client, document, dataset, eval_dataset)
        if base_model is not None:
            document["base_model"] = base_model
        if is_dry_run:
            show_preview(client.jobs.preview(document), as_json=as_json)
            return
        _show_new(client, client.jobs.create(document), is_watched=is_watched, as_json=as_json)


@commands.command()
def clone(
    job_id: JobId,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the spec, such as training.learning_rate=5e-5; null resets it "
            "to the default. Repeatable.",
        ),
    ] = None,
    dataset: DatasetOption = None,
    eval_dataset: EvalDatasetOption = None,
    is_continued: Annotated[
        bool, typer.Option("--from-checkpoint", help="Continue from the job's last checkpoint.")
    ] = False,
    is_watched: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Queue a new job with the spec of another job; --set changes fields."""
    overrides = parse_overrides(changes or [])
    with connect() as client:
        overrides = with_datasets(client, overrides, dataset, eval_dataset)
        job = client.jobs.clone(
            full_id(client, "job", job_id), overrides=overrides, from_checkpoint=is_continued
        )
        _show_new(client, job, is_watched=is_watched, as_json=as_json)


@commands.command("watch")
def watch_job(job_id: JobId, as_json: JsonOption = False) -> None:
    """Follow a job until it ends, across restarts of the service. The exit code reports how it
    ended."""
    with connect() as client:
        _follow(client, full_id(client, "job", job_id), as_json=as_json)


@commands.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs with exactly this name.")] = None,
    search: Annotated[
        str | None, typer.Option(help="Only jobs with this text in name, id or base model.")
    ] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        found = client.jobs.list(status=status, name=name, q=search, page_size=limit, after=after)
        page = found.page()
        accuracies = {} if as_json else accuracies_of(client, page.data)
    print_page(
        page,
        ("id", "name", "status", "progress", "accuracy", "base model", "queued"),
        lambda job: (
            job.id,
            job.name,
            job.status,
            steps(job),
            accuracies.get(job.id),
            job.base_model,
            moment(job.queued_at),
        ),
        as_json=as_json,
    )


@commands.command()
def get(job_id: JobId, as_json: JsonOption = False) -> None:
    """Show a job."""
    with connect() as client:
        job = client.jobs.get(full_id(client, "job", job_id))
        show_job(client, job, as_json=as_json)


@commands.command()
def metrics(
    job_id: JobId,
    keys: Annotated[
        str | None, typer.Option(help="Names, separated by commas; default: all.")
    ] = None,
    from_step: Annotated[int, typer.Option(min=0, help="First step.")] = 0,
    to_step: Annotated[
        int | None, typer.Option(min=0, help="Last step; default: the newest.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, max=5000, help="Maximum number of rows; more steps are averaged.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the metrics of a job by step."""
    with connect() as client:
        found = client.jobs.metrics(
            full_id(client, "job", job_id),
            keys=keys,
            from_step=from_step,
            to_step=to_step,
            resolution=rows,
        )
    show_metrics(found, as_json=as_json)


@commands.command()
def logs(
    job_id: JobId,
    tail: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Start with this many of the last pieces.")
    ] = None,
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log until the job ends.")
    ] = False,
) -> None:
    """Print the trainer's log."""
    with connect() as client:
        found = full_id(client, "job", job_id)
        for piece in client.jobs.logs(found, tail=tail, follow=is_followed):
            print_text(piece.text)


@commands.command()
def cancel(
    job_id: JobId,
    keeps_checkpoint: Annotated[
        bool,
        typer.Option(
            "--keep-checkpoint", help="Keep the checkpoint, so that a clone can continue from it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job. It cannot be resumed."""
    with connect() as client:
        found = full_id(client, "job", job_id)
        job = client.jobs.cancel(found, keep_checkpoint=keeps_checkpoint)
        show_job(client, job, as_json=as_json)


@commands.command()
def pause(job_id: JobId, as_json: JsonOption = False) -> None:
    """Pause a job. A running job saves a checkpoint and frees its device."""
    with connect() as client:
        job = client.jobs.pause(full_id(client, "job", job_id))
        show_job(client, job, as_json=as_json)


@commands.command()
def resume(job_id: JobId, as_json: JsonOption = False) -> None:
    """Queue a paused job again. It continues from its checkpoint."""
    with connect() as client:
        job = client.jobs.resume(full_id(client, "job", job_id))
        show_job(client, job, as_json=as_json)


@commands.command()
def delete(job_id: JobId) -> None:
    """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
    with connect() as client:
        found = full_id(client, "job", job_id)
        client.jobs.delete(found)
    notes.print(plain(f"{found} is deleted."))


def _show_new(client: Plaudit, job: Job, *, is_watched: bool, as_json: bool) -> None:
    if is_watched or as_json:  # otherwise the table has the URL of the page
        notes.print(plain(f"{job.id}  {page_of_job(client, job.id)}"))
    if is_watched:
        _follow(client, job.id, as_json=as_json)
    show_job(client, job, as_json=as_json)


def _follow(client: Plaudit, job_id: str, *, as_json: bool) -> None:
    """Watch the job, show it when it has ended, and exit with the code for its status."""
    try:
        job, exit_code = watch(client, job_id)
    except KeyboardInterrupt:
        notes.print(plain(f"The job continues. Follow it with: plaudit jobs watch {job_id}"))
        raise
    show_job(client, job, as_json=as_json)
    raise typer.Exit(exit_code)


@commands.command()
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
