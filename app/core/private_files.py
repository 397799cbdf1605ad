"""Small files with secrets and ids; several threads, processes and containers may write them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MODE = 0o600


def read_or_create(path: Path, text: str) -> str:
    """Return the content of a file; without one, create it with ``text``.

    Of several writers the first one wins, and all of them return its text.
    """
    if not path.exists():
        with _draft(path, text) as draft, suppress(FileExistsError):  # another was first
            os.link(draft, path)  # atomic
    return path.read_text()


def replace(path: Path, text: str) -> None:
    """Write a file; readers see the old or the new content, never a part of it."""
    with _draft(path, text) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    # Not named by the process: its threads would share the name, and so would the first processes
    # of two containers.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # otherwise it may be empty after a loss of power
        yield draft
    finally:
        draft.unlink(missing_ok=True)
