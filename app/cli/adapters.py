"""``plaudit adapters`` and ``plaudit verify``: bring adapters home and check them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.base_models.catalogue import (
    BaseModelEntry,
    Catalogue,
    HubSource,
    UnknownBaseModelError,
)
from app.base_models.errors import BaseModelError
from app.base_models.sources import fetch
from app.cli.client import Api, connect
from app.cli.database import read_catalogue, read_settings
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
    print_table,
    size,
)

CARD = "README.md"
SUMMARY = "reward_model.json"
WHAT_TO_GIVE = "Give --base, with the directory of the base model's files, or with a catalogue id."

commands = typer.Typer(help="Download trained adapters.", no_args_is_help=True)

#: What the service calls files; anything else could name a place outside of the directory.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@commands.command("list")
def list_adapters(
    limit: LimitOption = 20,
    after: AfterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Adapters, newest first."""
    with connect() as api:
        page = api.get("/v1/adapters", limit=limit, after=after)
    print_page(
        page,
        ("id", "job", "base model", "eval accuracy", "size", "made"),
        lambda adapter: (
            adapter["id"],
            adapter["job_id"],
            adapter["base_model"],
            _rounded(adapter["metrics"].get("eval/accuracy")),
            size(adapter["bytes"]),
            moment(adapter["created_at"]),
        ),
        as_json=as_json,
    )


@commands.command()
def download(
    adapter_id: Annotated[str, typer.Argument(help="ad_…")],
    directory: Annotated[Path, typer.Argument(file_okay=False, help="Made if it is not there.")],
    is_archive: Annotated[
        bool, typer.Option("--archive", help="All files in one tar instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download an adapter; every file's sha256 is checked before it gets its name."""
    with connect() as api:
        adapter = download_adapter(api, adapter_id, directory, is_archive=is_archive)
    if as_json:
        print_json(adapter)
        return
    rows = (
        (file["name"], size(file["bytes"]), file["sha256"])
        for file in _parts(adapter, is_archive=is_archive)
    )
    print_table(("file", "size", "sha256"), rows)
    notes.print(plain("Every sha256 is right."))
    if any(file["name"] == CARD for file in adapter["files"]):  # a merged model has none
        notes.print(plain(f"{CARD} among the files says how to score."))


def verify(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="ADAPTER_DIR")],
    base: Annotated[
        str | None,
        typer.Option(
            help="The base model: a directory or a catalogue id; default: what the adapter names."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole certificate.")] = False,
) -> None:
    """Score an adapter's probes in a fresh process: do they get what they got in training?

    Needs the worker's libraries.
    """
    if not (directory / SUMMARY).is_file():
        raise CommandError(f"{directory} holds no adapter: it has no {SUMMARY}.", Ending.USAGE)
    command = [sys.executable, "-P", "-m", "worker.trainer.export.verify", str(directory.resolve())]
    if base is not None or not _summary(directory).get("is_merged"):
        command += ["--base", str(_base_directory(base, directory))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    certificate = json.loads(done.stdout or "{}")
    if failure := certificate.get("failure"):
        raise CommandError(
            f"{directory} could not be loaded and scored: {failure['detail']}", Ending.FAILED
        )
    if not certificate:  # why not stands above
        raise CommandError("It could not be loaded and scored.", Ending.FAILED)
    if as_json:
        print_json(certificate)
    else:
        print_fields(
            (
                ("verified", "yes" if certificate["is_verified"] else "NO"),
                ("probes", len(certificate["probes"])),
                ("greatest difference", f"{certificate['max_abs_difference']:.1e}"),
                ("allowed", f"{certificate['tolerance']:.0e} of 1 + |score|"),
                ("files", len(certificate["files"])),
            )
        )
    raise typer.Exit(Ending.SUCCEEDED if certificate["is_verified"] else Ending.FAILED)


def download_adapter(
    api: Api, adapter_id: str, directory: Path, *, is_archive: bool = False
) -> Any:
    """Bring an adapter's files, or its tar, into a directory; the adapter as the API shows it.

    Raises:
        CommandError: the directory cannot be written to, or the bytes are not those that the
            service promised; they are not kept.
    """
    adapter = api.get(f"/v1/adapters/{adapter_id}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in _parts(adapter, is_archive=is_archive):
            _bring(api, file, directory)
    except OSError as error:
        raise CommandError(
            f"{error.filename or directory} cannot be written: {error.strerror}.", Ending.USAGE
        ) from error
    return adapter


def _rounded(accuracy: float | None) -> str | None:
    return None if accuracy is None else f"{accuracy:.3f}"


def _parts(adapter: Any, *, is_archive: bool) -> list[Any]:
    if is_archive:
        return [{**adapter["archive"], "name": f"{adapter['id']}.tar"}]
    files: list[Any] = adapter["files"]
    return files


def _bring(api: Api, file: Any, directory: Path) -> None:
    if not _FILE_NAME.fullmatch(file["name"]):
        raise CommandError(f"The service names a file {file['name']!r}.", Ending.REFUSED)
    target = directory / file["name"]
    partial = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as into:
            for chunk in api.download(file["url"]):
                digest.update(chunk)
                into.write(chunk)
        if digest.hexdigest() != file["sha256"]:
            raise CommandError(
                f"{file['name']}: sha256 is {digest.hexdigest()}, not {file['sha256']}.",
                Ending.FAILED,
                "The file was damaged on its way and is not kept; download it again.",
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _summary(directory: Path) -> dict[str, Any]:
    path = directory / SUMMARY
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(f"{path} cannot be read: {error}", Ending.USAGE) from error


def _base_directory(base: str | None, adapter: Path) -> Path:
    """Where the base model's files are; a catalogue id, or what the adapter names, is fetched."""
    if base is not None and Path(base).is_dir():
        return Path(base).resolve()
    settings = read_settings()
    catalogue = read_catalogue(settings)
    try:
        entry, revision = (
            _named_by(adapter, catalogue) if base is None else (catalogue.get(base), None)
        )
        fetched = fetch(
            entry,
            settings.model_cache,
            revision=revision,
            token=settings.hub_token,
            endpoint=settings.hub_endpoint,
            max_bytes=settings.max_base_model_bytes,
        )
    except (UnknownBaseModelError, BaseModelError) as error:
        raise CommandError(error.detail, Ending.USAGE, error.hint) from error
    return fetched.path


def _named_by(adapter: Path, catalogue: Catalogue) -> tuple[BaseModelEntry, str | None]:
    """The catalogue's entry for the base model of an adapter, and the hub's commit of it."""
    try:
        summary = _summary(adapter)
        name, revision = str(summary["base_model"]), summary["revision"]
    except KeyError as error:
        raise CommandError(
            f"{adapter} has no {SUMMARY} that names its base model.", Ending.USAGE, WHAT_TO_GIVE
        ) from error
    for entry in catalogue.entries:
        if isinstance(entry.source, HubSource) and entry.source.repo == name:
            return entry, None if revision is None else str(revision)
        if entry.id == name:
            return entry, None
    raise CommandError(
        f"The adapter's base model is {name}, which the catalogue does not have.",
        Ending.USAGE,
        WHAT_TO_GIVE,
    )
