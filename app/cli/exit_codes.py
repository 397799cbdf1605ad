"""Exit codes of the commands, and the errors that end them."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from app.cli.output import notes, plain
from plaudit import (
    APIError,
    ConfigurationError,
    ConnectionFailedError,
    DirectoryError,
    InvalidArgumentError,
    PlauditError,
    ServerError,
    UnexpectedResponseError,
)


class ExitCode(IntEnum):
    """Exit codes of the commands. Commands that watch a job report how it ended."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    PAUSED = 4
    REFUSED = 5
    AWAY = 6


#: Shown at the end of every ``--help``.
EPILOG = (
    "Exit codes: 0 done, or the watched job succeeded; 1 the job failed, or a check did not pass; "
    "2 the command line is wrong; 3 the job was cancelled; 4 the job is paused; 5 the service "
    "refused the request; 6 the service or its database cannot be reached; 130 stopped with "
    "Ctrl-C (a watched job continues)."
)


#: Failures of a write, which do not name the file.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


class CommandError(Exception):
    """Ends a command with a message, an exit code and a hint on what to do next."""

    def __init__(self, message: str, exit_code: ExitCode, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.exit_code, self.hint = message, exit_code, hint


class Commands(TyperGroup):
    """Reports the errors of all commands, and adds the exit codes to their help."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and report its errors with their exit code."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            raise _end(error) from error
        except PlauditError as error:
            raise _end(_of_client(error)) from error
        except OSError as error:
            if error.filename is None and error.errno not in _FULL:
                raise  # typer ends the command if nobody reads its output
            raise _end(_of_file(error)) from error

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, with the exit codes at the end of its help."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _add_epilog(command)
        return command


def _add_epilog(command: Any) -> None:
    command.epilog = EPILOG
    for child in getattr(command, "commands", {}).values():
        _add_epilog(child)


def _end(error: CommandError) -> typer.Exit:
    notes.print(plain(error.message, "bold red"))
    if error.hint:
        notes.print(plain(error.hint))
    return typer.Exit(error.exit_code)


def _of_file(error: OSError) -> CommandError:
    """Return the message and exit code for a file that cannot be read or written."""
    if error.filename is None:
        return CommandError(f"A file cannot be written: {error.strerror}.", ExitCode.USAGE)
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return CommandError(f"{name} cannot be used: {error.strerror}.", ExitCode.USAGE)


def _of_client(error: PlauditError) -> CommandError:
    """Return the message, exit code and hint for an error of the client."""
    match error:
        case APIError():
            lines, hint = error.explain()
            code = ExitCode.AWAY if isinstance(error, ServerError) else ExitCode.REFUSED
            return CommandError("\n".join(lines), code, hint)
        case ConnectionFailedError():
            hint = "Start the service with 'plaudit serve', or set PLAUDIT_URL to its URL."
            return CommandError(error.message, ExitCode.AWAY, hint)
        case UnexpectedResponseError():
            hint = "Set PLAUDIT_URL to the URL of the service."
            return CommandError(error.message, ExitCode.AWAY, hint)
        case ConfigurationError() | InvalidArgumentError():
            return CommandError(error.message, ExitCode.USAGE, error.hint)
        case DirectoryError():
            hint = (error.hint or "").replace("allow overwriting", "use --force to replace")
            return CommandError(error.message, ExitCode.USAGE, hint)
    return CommandError(error.message, ExitCode.FAILED, error.hint)
