"""``plaudit jobs init`` writes a job spec, and ``plaudit estimate`` shows what one needs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.job_display import show_estimate
from app.cli.output import JsonOption, notes, plain, print_text
from app.cli.spec_files import commented_spec, read_spec

DEFAULT_SPEC = Path("spec.toml")


def init(
    file: Annotated[
        Path, typer.Argument(help="A file name that ends in .toml; - writes to stdout.")
    ] = DEFAULT_SPEC,
    dataset: Annotated[str | None, typer.Option(help="Dataset to train on (ds_…).")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model; 'plaudit base-models' lists them.")
    ] = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a job spec with every field, its default and its allowed values."""
    given = {"train_dataset": dataset, "base_model": base_model}
    name = shlex.quote(str(DEFAULT_SPEC if str(file) == "-" else file))
    text = commented_spec(name, {key: value for key, value in given.items() if value is not None})
    if str(file) == "-":
        print_text(text)
        return
    if file.suffix != ".toml":
        raise CommandError(f"{file} does not end in .toml.", ExitCode.USAGE)
    try:
        content = text.encode()  # before the file is created
        with file.open("wb" if is_forced else "xb") as opened:
            opened.write(content)
    except UnicodeEncodeError as error:
        raise CommandError("An argument is not valid Unicode text.", ExitCode.USAGE) from error
    except FileExistsError as error:
        raise CommandError(
            f"{file} already exists.", ExitCode.USAGE, "Use --force to replace it."
        ) from error
    except OSError as error:
        raise CommandError(
            f"{file} cannot be written: {error.strerror}.", ExitCode.USAGE
        ) from error
    notes.print(plain(f"Wrote {file}. Submit it with: plaudit jobs submit {name}"))


def estimate(
    spec: Annotated[
        Path, typer.Argument(help="A job spec in TOML or JSON; - reads it from stdin.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Estimate the memory that a job needs, by part, and show which GPUs have it. No job is
    created."""
    document = read_spec(spec)
    with connect() as client:
        show_estimate(client.jobs.preview(document), as_json=as_json)
