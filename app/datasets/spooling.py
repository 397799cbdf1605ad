"""Temporary files for uploads that a child process reads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.settings import Settings


@dataclass(frozen=True)
class SpooledFile:
    """A file that is complete after ``receive``, so that its reader can start before that."""

    path: Path
    receive: Callable[[], None] = lambda: None


@contextmanager
def spooled(chunks: Iterable[bytes], settings: Settings) -> Iterator[SpooledFile]:
    """Make a temporary file, to which ``receive`` writes the chunks."""
    folder = settings.data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:

        def receive() -> None:
            for chunk in chunks:
                file.write(chunk)
            file.flush()

        yield SpooledFile(Path(file.name), receive)
