"""``plaudit jobs note``: show, replace, extend or remove the notes of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.job_options import JobId
from app.cli.output import JsonOption, notes, plain, print_json, print_text
from app.cli.short_ids import full_id
from app.cli.spec_files import read_stdin


def note(
    job_id: JobId,
    text: Annotated[
        str | None,
        typer.Argument(
            help="The new notes; - reads them from stdin, an empty text removes them. Without a "
            "text, the notes are printed."
        ),
    ] = None,
    is_appended: Annotated[
        bool,
        typer.Option("--append", help="Add the text to the notes instead of replacing them."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show or change the notes of a job, which are also on its page."""
    if is_appended and text is None:
        raise CommandError("--append needs a text.", ExitCode.USAGE)
    given = read_stdin().rstrip("\n") if text == "-" else text
    with connect() as client:
        job = client.jobs.get(full_id(client, "job", job_id))
        if given is not None:
            earlier = [job.notes] if is_appended and job.notes else []
            job.update(notes="\n".join([*earlier, given]) or None)
            notes.print(plain(f"The notes of {job.id} are saved."))
    if as_json:
        print_json(job.to_dict())
    elif given is None and job.notes:
        print_text(f"{job.notes}\n")
    elif given is None:
        notes.print(plain(f"{job.id} has no notes."))
