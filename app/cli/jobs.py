"""``plaudit jobs``: submit training jobs and follow them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Api, connect
from app.cli.endings import CommandError, Ending
from app.cli.output import (
    AfterOption,
    JsonOption,
    LimitOption,
    moment,
    notes,
    plain,
    print_fields,
    print_json,
    print_page,
    print_text,
)
from app.cli.watching import ENDINGS, newest_metrics, watch

commands = typer.Typer(help="Submit training jobs and follow them.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="job_…")]
_FOLLOW_SECONDS = 1.0


@commands.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="A job spec in JSON; - reads it from stdin.")],
    is_watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it; the exit status says how it ended.")
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run; store nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Queue a training job."""
    document = _read_spec(spec)
    with connect() as api:
        job = api.submit(document, is_dry_run=is_dry_run)
        if is_dry_run:
            _show_preview(job, as_json)
            return
        if not is_watched:
            _show(api, job, as_json)
            return
        notes.print(plain(f"{job['id']}  {api.url}/v1/jobs/{job['id']}"))
        _follow(api, job["id"], as_json)


@commands.command("watch")
def watch_job(job_id: JobId, as_json: JsonOption = False) -> None:
    """Follow a job to its end; the exit status says how it ended."""
    with connect() as api:
        _follow(api, job_id, as_json)


@commands.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Jobs, newest first."""
    with connect() as api:
        page = api.get("/v1/jobs", status=status, name=name, limit=limit, after=after)
    print_page(
        page,
        ("id", "name", "status", "progress", "base model", "queued"),
        lambda job: (
            job["id"],
            job["name"],
            job["status"],
            _progress(job),
            job["base_model"],
            moment(job["queued_at"]),
        ),
        as_json=as_json,
    )


@commands.command()
def get(job_id: JobId, as_json: JsonOption = False) -> None:
    """A job."""
    with connect() as api:
        _show(api, api.get(f"/v1/jobs/{job_id}"), as_json)


@commands.command()
def logs(
    job_id: JobId,
    tail: Annotated[int | None, typer.Option(min=1, max=1000, help="Last pieces only.")] = None,
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends.")
    ] = False,
) -> None:
    """What the trainer printed."""
    with connect() as api:
        after = _print_log(api, job_id, None, tail)
        while is_followed:
            # Asked before the log is read: what an ended job said last is there already.
            is_followed = api.get(f"/v1/jobs/{job_id}")["status"] not in ENDINGS
            after = _print_log(api, job_id, after)
            time.sleep(_FOLLOW_SECONDS if is_followed else 0)


@commands.command()
def cancel(
    job_id: JobId,
    keeps_checkpoint: Annotated[
        bool, typer.Option("--keep-checkpoint", help="So that a clone can go on from it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop a job for good."""
    body = {"keep_checkpoint": keeps_checkpoint}
    with connect() as api:
        _show(api, api.post(f"/v1/jobs/{job_id}/cancel", body), as_json)


@commands.command()
def pause(job_id: JobId, as_json: JsonOption = False) -> None:
    """Put a job aside with a checkpoint; frees its device."""
    with connect() as api:
        _show(api, api.post(f"/v1/jobs/{job_id}/pause"), as_json)


@commands.command()
def resume(job_id: JobId, as_json: JsonOption = False) -> None:
    """Let a paused job go on."""
    with connect() as api:
        _show(api, api.post(f"/v1/jobs/{job_id}/resume"), as_json)


def _print_log(api: Api, job_id: str, after: str | None, tail: int | None = None) -> str | None:
    """Print what is there after a piece; the id of the last one."""
    while True:
        page = api.get(f"/v1/jobs/{job_id}/logs", after=after, tail=tail)
        for piece in page["data"]:
            after = piece["id"]
            print_text(piece["text"])
        if tail is not None or not page["has_more"]:
            return after


def _follow(api: Api, job_id: str, as_json: bool) -> None:
    try:
        job, ending = watch(api, job_id)
    except KeyboardInterrupt:
        notes.print(plain(f"The job goes on; see it with: plaudit jobs watch {job_id}"))
        raise
    _show(api, job, as_json)
    raise typer.Exit(ending)


def _show(api: Api, job: Any, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    failure = job["failure"]
    print_fields(
        (
            ("id", job["id"]),
            ("name", job["name"]),
            ("status", job["status"]),
            ("phase", job["phase"]),
            ("progress", _progress(job)),
            ("base model", job["base_model"]),
            ("train on", job["spec"]["train_dataset"]),
            ("judged by", _held_out(job["spec"]["eval_dataset"])),
            ("attempt", job["attempt"]),
            ("worker", job["worker"]),
            ("queued", moment(job["queued_at"])),
            ("started", moment(job["started_at"])),
            ("finished", moment(job["finished_at"])),
            *((name, f"{value:.4g}") for name, value in newest_metrics(api, job["id"]).items()),
            ("adapter", job["adapter_id"]),
            ("failure", failure and f"{failure['code']}: {failure['detail']}"),
            ("what to do", failure and failure["hint"]),
            *(("warning", warning["message"]) for warning in job["warnings"]),
        )
    )


def _show_preview(preview: Any, as_json: bool) -> None:
    if as_json:
        print_json(preview)
        return
    trained, total = preview["trainable_parameters"], preview["total_parameters"]
    print_fields(
        (
            ("steps", preview["steps"]),
            ("trained", f"{trained:,} of {total:,} parameters ({trained / total:.2%})"),
            *((f"lora {name}", value) for name, value in preview["adapter_config"].items()),
            *(("warning", warning["message"]) for warning in preview["warnings"]),
        )
    )


def _progress(job: Any) -> str | None:
    progress = job["progress"]
    if progress["step"] is None:
        return None
    return "{step} of {total_steps} steps".format_map(progress)


def _held_out(asked: Any) -> str | None:
    return f"{asked['fraction']:.0%} of them" if isinstance(asked, dict) else asked


def _read_spec(path: Path) -> Any:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} is no job spec: {error}", Ending.USAGE) from error
