"""``plaudit datasets``: upload preference pairs and look at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

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
    size,
)
from app.cli.reports import print_report

commands = typer.Typer(help="Upload preference pairs and look at them.", no_args_is_help=True)

_CONTENT_TYPES = {
    "arrow": "application/vnd.apache.arrow.file",
    "csv": "text/csv",
    "feather": "application/vnd.apache.arrow.file",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "tsv": "text/tab-separated-values",
}
_PACKED = (".gz", ".xz", ".bz2", ".zst")
_CHUNK_BYTES = 1 << 20
MAX_NAME = 128


@commands.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV, Parquet, Arrow."),
    ],
    name: Annotated[str | None, typer.Option(help="For people; default: the file's name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload preference pairs; a file with bad lines is refused with the first ten of them."""
    with connect() as api:
        dataset, is_new = upload_file(api, file, name)
    if not is_new:
        notes.print(
            plain(
                f"This file is here already, since {moment(dataset['created_at'])} "
                + (f"under the name {dataset['name']}." if dataset["name"] else "without a name.")
            )
        )
    if as_json:
        print_json(dataset)
        return
    _show(dataset)


@commands.command("list")
def list_datasets(
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Datasets, newest first."""
    with connect() as api:
        page = api.get("/v1/datasets", limit=limit, after=after)
    print_page(
        page,
        ("id", "name", "pairs", "format", "size", "uploaded"),
        lambda dataset: (
            dataset["id"],
            dataset["name"],
            dataset["pair_count"],
            dataset["format"],
            size(dataset["bytes"]),
            moment(dataset["created_at"]),
        ),
        as_json=as_json,
    )


@commands.command()
def report(
    dataset_id: Annotated[str, typer.Argument(help="ds_…")],
    base_model: Annotated[
        str | None,
        typer.Option(help="Whose tokenizer counts; default: the catalogue's first."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens of a job; default: a job's default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is odd about a dataset: duplicates, ties, how far length alone tells.

    A worker makes it the first time.
    """
    with connect() as api:
        document = api.get(
            f"/v1/datasets/{dataset_id}/report",
            base_model=base_model or _first_base_model(api),
            max_length=max_length,
        )
    if as_json:
        print_json(document)
        return
    print_report(document)


def upload_file(api: Api, file: Path, name: str | None = None) -> tuple[Any, bool]:
    """Stream a file to the service; its dataset, and whether it is a new one.

    Without a name it gets the file's, as much of it as the service takes.
    """
    name = file.name[:MAX_NAME] if name is None else name
    plain_name = file.stem if file.suffix.lower() in _PACKED else file.name
    suffix = plain_name.lower().rpartition(".")[2]
    content_type = _CONTENT_TYPES.get(suffix, "application/x-ndjson")
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("uploading", total=file.stat().st_size)

        def chunks() -> Iterator[bytes]:
            with file.open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    yield chunk
                    progress.advance(task, len(chunk))
            progress.update(task, description="checking", total=None)

        return api.upload(chunks(), content_type, name=name)


def _first_base_model(api: Api) -> str:
    """Most of a report hangs little on the tokenizer; which one it was is said."""
    if not (entries := api.get("/v1/base-models")["data"]):
        raise CommandError("The service's catalogue of base models is empty.", Ending.REFUSED)
    first = str(entries[0]["id"])
    notes.print(plain(f"tokens of {first}; choose another with --base-model", "dim"))
    return first


def _show(dataset: Any) -> None:
    print_fields(
        (
            ("id", dataset["id"]),
            ("name", dataset["name"]),
            ("pairs", dataset["pair_count"]),
            ("shape", dataset["shape"]),
            ("format", f"{dataset['format']}, {dataset['prompt']} prompt"),
            ("columns", ", ".join(dataset["columns"])),
            ("left out", ", ".join(dataset["ignored_columns"])),
            ("skipped", ", ".join(f"{s['count']} {s['code']}" for s in dataset["skipped"])),
            ("size", size(dataset["bytes"])),
            ("sha256", dataset["sha256"]),
        )
    )
    for warning in dataset["warnings"]:
        notes.print(plain(f"warning: {warning['message']}"))
