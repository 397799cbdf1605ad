"""``plaudit adapters``: list, download, merge, push and delete adapters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from app.cli.accuracies import main_accuracy
from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
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
    print_table,
    size,
)
from app.cli.short_ids import full_id
from plaudit import Plaudit, PlauditError
from plaudit.models import AdapterRead, MergeRead, PushRead

CARD = "README.md"
ASK_SECONDS = 2.0
_LIVE = ("queued", "running", "paused")

commands = typer.Typer(
    help="List, download, merge, push and delete trained adapters.", no_args_is_help=True
)

AdapterId = Annotated[str, typer.Argument(help="Adapter id (ad_…) or its first digits.")]


@commands.command("list")
def list_adapters(
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List adapters, newest first."""
    with connect() as client:
        page = client.adapters.list(page_size=limit, after=after).page()
    print_page(
        page,
        ("id", "job", "base model", "eval accuracy", "size", "created"),
        lambda adapter: (
            adapter.id,
            adapter.job_id,
            adapter.base_model,
            main_accuracy(adapter.metrics),
            size(adapter.bytes),
            moment(adapter.created_at),
        ),
        as_json=as_json,
    )


@commands.command()
def download(
    adapter_id: AdapterId,
    directory: Annotated[
        Path, typer.Argument(file_okay=False, help="Created if it does not exist.")
    ],
    is_archive: Annotated[
        bool, typer.Option("--archive", help="Download one tar archive instead.")
    ] = False,
    is_forced: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Allow a directory that contains other files; files with the same names are "
            "replaced.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download an adapter and verify the sha256 of every file.

    Resumes an interrupted download into the same directory. A directory that contains other files
    is refused.
    """
    with connect() as client:
        found = full_id(client, "ad", adapter_id)
        adapter = download_to(client, found, directory, is_archive=is_archive, is_forced=is_forced)
    if as_json:
        print_json(adapter.to_dict())
        return
    archive = adapter.archive
    rows = [(f"{adapter.id}.tar", size(archive.bytes), archive.sha256)]
    if not is_archive:
        rows = [(file.name, size(file.bytes), file.sha256) for file in adapter.files]
    print_table(("file", "size", "sha256"), rows)
    notes.print(plain("The sha256 of every file is correct."))
    if any(file.name == CARD for file in adapter.files):  # a merged model has no model card
        notes.print(plain(f"The model card, {CARD}, shows how to score with it."))


@commands.command()
def merge(
    adapter_id: AdapterId,
    is_watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Wait until the merged model is ready.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base model. A worker makes the full model; a repeated call returns
    the same merge."""
    with connect() as client:
        found = full_id(client, "ad", adapter_id)
        merged = client.adapters.merge(found)
        while is_watched and merged.status in _LIVE:
            time.sleep(ASK_SECONDS)
            merged = client.adapters.get_merge(found)
    _show_merge(merged, as_json=as_json)
    if merged.status in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.FAILED)


@commands.command()
def push(
    adapter_id: AdapterId,
    repo: Annotated[str, typer.Argument(help="org/name on the operator's hub.")],
    is_public: Annotated[
        bool, typer.Option("--public", help="Make the repository public if it is created.")
    ] = False,
    is_watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Wait until it has ended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a worker to upload an adapter's files to the operator's hub, in one commit."""
    with connect() as client:
        found = full_id(client, "ad", adapter_id)
        pushed = client.adapters.push(found, repo, private=not is_public)
        while is_watched and pushed.status in _LIVE:
            time.sleep(ASK_SECONDS)
            pushed = client.adapters.get_push(found)
    _show_push(pushed, as_json=as_json)
    if pushed.status in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.FAILED)


@commands.command()
def delete(adapter_id: AdapterId) -> None:
    """Delete an adapter. Its job is kept."""
    with connect() as client:
        found = full_id(client, "ad", adapter_id)
        client.adapters.delete(found)
    notes.print(plain(f"{found} is deleted."))


def download_to(
    client: Plaudit,
    adapter_id: str,
    directory: Path,
    *,
    is_archive: bool = False,
    is_forced: bool = False,
) -> AdapterRead:
    """Download an adapter's files, or its tar archive, into a directory.

    Raises:
        CommandError: the directory cannot be written to.
        PlauditError: the directory contains other files, or a size or sha256 is wrong.
    """
    try:
        if is_archive:
            archive = directory / f"{adapter_id}.tar"
            return client.adapters.download_archive(adapter_id, archive, overwrite=is_forced)
        return client.adapters.download(adapter_id, directory, overwrite=is_forced)
    except PlauditError:
        raise  # some of these are also subclasses of OSError
    except OSError as error:
        raise CommandError(
            f"{error.filename or directory} cannot be written: {error.strerror}.", ExitCode.USAGE
        ) from error


def _show_merge(merged: MergeRead, *, as_json: bool) -> None:
    if as_json:
        print_json(merged.to_dict())
        return
    print_fields(
        (
            ("id", merged.id),
            ("source adapter", merged.source_adapter_id),
            ("status", merged.status),
            ("adapter", merged.adapter_id),
            ("failure", merged.failure),
        )
    )
    if merged.adapter_id is not None:
        notes.print(plain(f"Download it with: plaudit adapters download {merged.adapter_id} DIR"))
    elif merged.status in _LIVE:
        notes.print(plain("A worker merges it. Repeat the command, or wait for it with --watch."))


def _show_push(pushed: PushRead, *, as_json: bool) -> None:
    if as_json:
        print_json(pushed.to_dict())
        return
    failure = pushed.failure
    print_fields(
        (
            ("id", pushed.id),
            ("of", pushed.adapter_id),
            ("to", pushed.repo),
            ("status", pushed.status),
            ("commit", pushed.commit),
            ("failure", failure and f"{failure.code}: {failure.detail}"),
            ("what to do", failure and failure.hint),
        )
    )
    if pushed.status in _LIVE:
        notes.print(plain("A worker uploads it; with --watch the command waits for the end."))
