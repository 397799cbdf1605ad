"""How commands end: exit statuses that scripts can switch on."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from app.cli.output import notes, plain


class Ending(IntEnum):
    """Exit statuses; of a watched job they say how it ended."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    PAUSED = 4
    REFUSED = 5
    AWAY = 6


#: Shown under ``plaudit --help``.
EPILOG = "\n\n".join(
    (
        "Exit status: 0 done, or the watched job succeeded",
        "1 the job failed, or what was checked did not hold",
        "2 the command line is wrong",
        "3 the job was cancelled",
        "4 the job is paused",
        "5 the service refused the request",
        "6 the service or its database cannot be reached",
        "130 stopped with Ctrl-C; a watched job goes on",
    )
)


class CommandError(Exception):
    """A command cannot go on; the message says what to do next."""

    def __init__(self, message: str, ending: Ending, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.ending, self.hint = message, ending, hint


class Commands(TyperGroup):
    """Ends every command below it with the status that its error carries."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            notes.print(plain(error.message, "bold red"))
            if error.hint:
                notes.print(plain(error.hint))
            raise typer.Exit(error.ending) from error
