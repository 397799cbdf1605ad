"""``plaudit datasets``: upload and inspect preference data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

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
from app.cli.uploads import read_options, upload_files
from plaudit import Plaudit
from plaudit.models import DatasetRead

commands = typer.Typer(help="Upload and inspect preference data.", no_args_is_help=True)

DatasetId = Annotated[str, typer.Argument(help="Dataset id (ds_…) or its first digits.")]


ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="Role and name of a column: prompt=question. Repeatable."),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option("--label", help="Meaning of a value of the label column: a=1. Repeatable."),
]
IgnoredOption = Annotated[
    list[str] | None,
    typer.Option("--ignore-column", help="Ignore the text of this column. Repeatable."),
]
OnInvalidOption = Annotated[
    str,
    typer.Option(help="refuse: reject a file with invalid rows; skip: skip invalid rows."),
]

VariablesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template-variable",
        help="Variable of the chat template for all rows: enable_thinking=false. Repeatable.",
    ),
]


@commands.command()
def upload(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Files or a directory of shards: JSON lines, JSON, CSV, TSV, Parquet, Arrow, "
            "also compressed. Several files become one dataset.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Display name; default: the file name.")] = None,
    columns: ColumnsOption = None,
    labels: LabelsOption = None,
    ignored: IgnoredOption = None,
    on_invalid: OnInvalidOption = "refuse",
    variables: VariablesOption = None,
    resume: Annotated[
        str | None, typer.Option(help="up_…: continue an interrupted upload of these files.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload preference pairs. A file with invalid lines is refused; the first ten are shown."""
    options = read_options(columns, labels, ignored, on_invalid, variables)
    with connect() as client:
        dataset = upload_files(client, files, name, options, resume)
    if not dataset.is_new:
        named = f"with the name {dataset.name}" if dataset.name else "without a name"
        since = moment(dataset.created_at)
        notes.print(plain(f"This file was already uploaded at {since} {named}."))
    if as_json:
        print_json(dataset.to_dict())
        return
    _show(dataset)


@commands.command("import")
def import_dataset(
    source: Annotated[
        str, typer.Argument(help="Dataset of the operator's hub: hub:org/name@revision.")
    ],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    config: Annotated[
        str | None, typer.Option(help="Configuration, if the dataset has several.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Display name; default: the name on the hub.")
    ] = None,
    columns: ColumnsOption = None,
    labels: LabelsOption = None,
    ignored: IgnoredOption = None,
    on_invalid: OnInvalidOption = "refuse",
    variables: VariablesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a dataset from the hub with a worker, and wait until it is stored."""
    options = read_options(columns, labels, ignored, on_invalid, variables)
    with connect() as client:
        queued = client.datasets.imports.create(
            source=source, split=split, config=config, name=name, **options
        )
        notes.print(plain(f"{queued.id} is queued.", "dim"))
        dataset = client.datasets.get(client.datasets.imports.wait(queued.id))
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
    """List datasets, newest first."""
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
    """Show a dataset."""
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
        typer.Option(help="Base model whose tokenizer is used; default: the catalogue's first."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, help="Maximum tokens of a text; default: the default of jobs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report on the quality of a dataset: duplicates, ties, lengths and length bias.

    A worker computes the report at the first request.
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


def _first_base_model(client: Plaudit) -> str:
    """Return the first base model. Most of a report depends little on the tokenizer."""
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
            ("rows", dataset.row_count if dataset.row_count != dataset.pair_count else None),
            ("origin", dataset.origin),
            ("shape", dataset.shape),
            ("format", f"{dataset.format}, {dataset.prompt} prompt"),
            ("columns", ", ".join(dataset.columns)),
            ("left out", ", ".join(dataset.ignored_columns)),
            (
                "template variables",
                ", ".join(f"{n}={json.dumps(v)}" for n, v in dataset.chat_template_kwargs.items()),
            ),
            ("skipped", ", ".join(f"{s.count} {s.code}" for s in dataset.skipped)),
            ("size", size(dataset.bytes)),
            ("sha256", dataset.sha256),
        )
    )
    for warning in dataset.warnings:
        notes.print(plain(f"Warning: {warning.message}"))
