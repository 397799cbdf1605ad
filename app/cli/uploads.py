"""Uploads preference data for ``plaudit datasets upload``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict, cast

from rich.progress import Progress

from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes
from plaudit import APIError, ConnectionFailedError, Plaudit, PlauditError, UploadedDataset


class ReadOptions(TypedDict):
    """How the rows are read; the same options as those of the client."""

    columns: dict[str, str]
    labels: dict[str, str]
    ignore_columns: list[str]
    on_invalid: Literal["refuse", "skip"]
    chat_template_kwargs: dict[str, bool | int | float | str]


def read_options(
    columns: Sequence[str] | None,
    labels: Sequence[str] | None,
    ignored: Sequence[str] | None,
    on_invalid: str,
    variables: Sequence[str] | None,
) -> ReadOptions:
    """Parse the options of the command line. All but ``ignored`` have the form ``prompt=question``.

    Raises:
        CommandError: an option is invalid.
    """
    if on_invalid not in ("refuse", "skip"):
        raise CommandError(
            f"--on-invalid must be refuse or skip, not {on_invalid}.", ExitCode.USAGE
        )
    return {
        "columns": _pairs("--column", columns or ()),
        "labels": _pairs("--label", labels or ()),
        "ignore_columns": list(ignored or ()),
        "on_invalid": cast(Literal["refuse", "skip"], on_invalid),
        "chat_template_kwargs": {
            name: _scalar(text)
            for name, text in _pairs("--template-variable", variables or ()).items()
        },
    }


def upload_files(
    client: Plaudit,
    files: Sequence[Path],
    name: str | None = None,
    options: ReadOptions | None = None,
    resume: str | None = None,
) -> UploadedDataset:
    """Upload a file, a directory or several files, with a progress bar on a terminal.

    Raises:
        CommandError: a file cannot be read.
        PlauditError: the upload failed. If it can be resumed, stderr says how.
    """
    total = sum(_size(file) for file in files)
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("uploading", total=total)
        sent = 0

        def show(count: int) -> None:
            nonlocal sent
            sent += count
            progress.update(task, completed=sent)
            if sent >= total:
                progress.update(task, description="checking", total=None)

        source = files[0] if len(files) == 1 else list(files)
        read = options or read_options(None, None, None, "refuse", None)
        try:
            return client.datasets.upload(source, name=name, resume=resume, on_bytes=show, **read)
        except (APIError, ConnectionFailedError) as error:
            _print_how_to_resume(error)
            raise
        except PlauditError:
            raise  # some of these are also subclasses of OSError
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CommandError(
                f"{', '.join(map(str, files))} cannot be read: {reason.rstrip('.')}.",
                ExitCode.USAGE,
            ) from error


def _print_how_to_resume(error: Exception) -> None:
    for note in getattr(error, "__notes__", ()):
        notes.print(note.replace("resume=", "--resume "), markup=False, highlight=False)


def _size(file: Path) -> int:
    if file.is_dir():
        return sum(each.stat().st_size for each in file.iterdir() if each.is_file())
    return file.stat().st_size if file.exists() else 0


def _scalar(text: str) -> bool | int | float | str:
    """Return the JSON value of a text, or the text if it is not JSON."""
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        part, equals, column = value.partition("=")
        if not equals or not part or not column:
            raise CommandError(
                f"{option} {value} must have the form {option} prompt=question.", ExitCode.USAGE
            )
        pairs[part] = column
    return pairs
