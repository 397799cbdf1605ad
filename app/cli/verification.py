"""``plaudit verify``: repeats the verification of an adapter on this machine."""

from __future__ import annotations

import json
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
from app.cli.database import read_catalogue, read_settings
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import print_fields, print_json

SUMMARY = "reward_model.json"
BASE_HINT = "Pass --base with the directory of the base model's files, or with a catalogue id."


def verify(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="ADAPTER_DIR")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: a directory or a catalogue id; default: the one the adapter names."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole certificate.")] = False,
) -> None:
    """Score an adapter's probe pairs in a new process and compare the scores with training.

    Requires the worker's libraries.
    """
    if not (directory / SUMMARY).is_file():
        raise CommandError(
            f"{directory} contains no adapter: {SUMMARY} is missing.", ExitCode.USAGE
        )
    command = [sys.executable, "-P", "-m", "worker.trainer.export.verify", str(directory.resolve())]
    if base is not None or not _summary(directory).get("is_merged"):
        command += ["--base", str(base_directory(base, directory))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    certificate = json.loads(done.stdout or "{}")
    if failure := certificate.get("failure"):
        raise CommandError(
            f"{directory} could not be loaded and scored: {failure['detail']}", ExitCode.FAILED
        )
    if not certificate:  # the process has printed the reason
        raise CommandError(f"{directory} could not be loaded and scored.", ExitCode.FAILED)
    if as_json:
        print_json(certificate)
    else:
        print_fields(
            (
                ("verified", "yes" if certificate["is_verified"] else "NO"),
                ("probes", len(certificate["probes"])),
                ("largest difference", f"{certificate['max_abs_difference']:.1e}"),
                ("allowed", _allowed(certificate)),
                ("files", len(certificate["files"])),
            )
        )
    raise typer.Exit(ExitCode.SUCCEEDED if certificate["is_verified"] else ExitCode.FAILED)


def _allowed(certificate: dict[str, Any]) -> str:
    share, noise = certificate["tolerance"], certificate["noise_tolerance"]
    return f"{share:.0e} of 1 + |score|, or {noise:.1e}"


def _summary(directory: Path) -> dict[str, Any]:
    path = directory / SUMMARY
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CommandError(f"{path} cannot be read: {error}", ExitCode.USAGE) from error


def base_directory(base: str | None, adapter: Path) -> Path:
    """Return the directory of the base model's files.

    ``base`` is a directory or a catalogue id; None: the base model that the adapter names. A base
    model of the catalogue is downloaded if necessary.

    Raises:
        CommandError: the base model is unknown or cannot be downloaded.
    """
    if base is not None and Path(base).is_dir():
        return Path(base).resolve()
    # It imports the library of the hub, which other commands do not need.
    from app.base_models.sources import fetch

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
        raise CommandError(error.detail, ExitCode.USAGE, error.hint) from error
    return fetched.path


def _named_by(adapter: Path, catalogue: Catalogue) -> tuple[BaseModelEntry, str | None]:
    """Return the catalogue entry for the base model of an adapter, and its commit on the hub."""
    try:
        summary = _summary(adapter)
        name, revision = str(summary["base_model"]), summary["revision"]
    except KeyError as error:
        raise CommandError(
            f"{adapter / SUMMARY} does not name the base model.", ExitCode.USAGE, BASE_HINT
        ) from error
    for entry in catalogue.entries:
        if isinstance(entry.source, HubSource) and entry.source.repo == name:
            return entry, None if revision is None else str(revision)
        if entry.id == name:
            return entry, None
    raise CommandError(
        f"The adapter's base model is {name}, which is not in the catalogue.",
        ExitCode.USAGE,
        BASE_HINT,
    )
