"""The ``plaudit`` command."""

from __future__ import annotations

import sys

#: As a shell reports a command that SIGINT ended.
_INTERRUPTED = 130


def main() -> None:
    """Run the ``plaudit`` command. Ctrl-C ends it without a traceback, also while it starts."""
    try:
        # Imported here, because the imports take most of the first second.
        from app.cli.commands import app

        app()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
