"""``plaudit datasets``: upload and inspect preference data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

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
    size,
)
from app.cli.reports import print_report
from app.cli.short_ids import full_id
from plaudit import Plaudit, PlauditError, UploadedDataset
from plaudit.models import DatasetRead

commands = typer.Typer(help="Upload and inspect preference data.", no_args_is_help=True)

DatasetId = Annotated[str, typer.Argument(help="Id (ds_…) or its first digits.")]


@commands.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV, Parquet, Arrow."),
    ],
    name: Annotated[str | None, typer.Option(help="Display name; default: the file name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload preference pairs. A file with invalid lines is rejected; the first ten are shown."""
    with connect() as client:
        dataset = upload_file(client, file, name)
    if not dataset.is_new:
        named = f"under the name {dataset.name}." if dataset.name else "without a name."
        since = moment(dataset.created_at)
        notes.print(plain(f"This file was already uploaded, at {since} {named}"))
    if as_json:
        print_json(dataset.to_dict())
        return
    _show(dataset)


@commands.command("list")
def list_datasets(
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Datasets, newest first."""
    with connect() as client:
        page = client.datasets.list(page_size=limit, after=after).page()
    print_page(
        page,
        ("id", "name", "pairs", "format", "size", "uploaded"),
        lambda dataset: (
            dataset.id,
            dataset.name,
            dataset.pair_count,
            dataset.format,
            size(dataset.bytes),
            moment(dataset.created_at),
        ),
        as_json=as_json,
    )


@commands.command()
def get(dataset_id: DatasetId, as_json: JsonOption = False) -> None:
    """A dataset."""
    with connect() as client:
        dataset = client.datasets.get(full_id(client, "ds", dataset_id))
    if as_json:
        print_json(dataset.to_dict())
        return
    _show(dataset)


@commands.command()
def delete(dataset_id: DatasetId) -> None:
    """Delete a dataset that no unfinished job uses."""
    with connect() as client:
        found = full_id(client, "ds", dataset_id)
        client.datasets.delete(found)
    notes.print(plain(f"{found} is deleted."))


@commands.command()
def report(
    dataset_id: DatasetId,
    base_model: Annotated[
        str | None,
        typer.Option(help="Base model whose tokenizer counts; default: the catalogue's first."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, help="Maximum tokens of a text; default: that of a job."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is odd about a dataset: duplicates, ties, how far length alone tells.

    A worker makes it the first time.
    """
    with connect() as client:
        document = client.datasets.report(
            full_id(client, "ds", dataset_id),
            base_model or _first_base_model(client),
            max_length=max_length,
        )
    if as_json:
        print_json(document.to_dict())
        return
    print_report(document)


def upload_file(client: Plaudit, file: Path, name: str | None = None) -> UploadedDataset:
    """Stream a file to the service.

    Without a name it gets the file's, as much of it as the service takes.
    """
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        total = file.stat().st_size
        task = progress.add_task("uploading", total=total)
        sent = 0

        def show(count: int) -> None:
            nonlocal sent
            sent += count
            progress.update(task, completed=sent)
            if sent >= total:
                progress.update(task, description="checking", total=None)

        try:
            return client.datasets.upload(file, name=name, on_bytes=show)
        except PlauditError:
            raise  # some of them are OSErrors too
        except OSError as error:
            raise CommandError(
                f"{file} cannot be read: {error.strerror or error}.", ExitCode.USAGE
            ) from error


def _first_base_model(client: Plaudit) -> str:
    """Most of a report hangs little on the tokenizer; which one it was is said."""
    entry = next(iter(client.base_models.list()), None)
    if entry is None:
        raise CommandError("The service's catalogue of base models is empty.", ExitCode.REFUSED)
    notes.print(plain(f"tokens of {entry.id}; choose another with --base-model", "dim"))
    return entry.id


def _show(dataset: DatasetRead) -> None:
    print_fields(
        (
            ("id", dataset.id),
            ("name", dataset.name),
            ("pairs", dataset.pair_count),
            ("shape", dataset.shape),
            ("format", f"{dataset.format}, {dataset.prompt} prompt"),
            ("columns", ", ".join(dataset.columns)),
            ("left out", ", ".join(dataset.ignored_columns)),
            ("skipped", ", ".join(f"{s.count} {s.code}" for s in dataset.skipped)),
            ("size", size(dataset.bytes)),
            ("sha256", dataset.sha256),
        )
    )
    for warning in dataset.warnings:
        notes.print(plain(f"warning: {warning.message}"))
