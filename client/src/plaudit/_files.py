"""Files of a download: partial ones that are continued, whole ones that are checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plaudit.errors import DirectoryError, DownloadError

_BLOCK_BYTES = 1 << 20
#: Names that lead nowhere outside of a directory.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_LISTED = 5


@dataclass(frozen=True)
class Wanted:
    """A file as the service describes it."""

    name: str
    size: int
    sha256: str

    @property
    def partial_name(self) -> str:
        """What its first bytes are kept as: names the content, so that no other is continued."""
        return f"{self.name}.{self.sha256[:12]}.part"

    @property
    def etag(self) -> str:
        """Of its content."""
        return f'"sha256-{self.sha256}"'


def check_names(files: Iterable[Wanted]) -> None:
    """Refuse names that could lead out of the directory.

    Raises:
        DownloadError
    """
    for file in files:
        if not _FILE_NAME.fullmatch(file.name):
            raise DownloadError(
                f"The service names a file {file.name!r}, which is not a file name."
            )


def check_directory(directory: Path, files: Sequence[Wanted]) -> None:
    """Refuse a directory that holds anything but these files, whole or in part.

    Raises:
        DirectoryError: it names what is there.
        NotADirectoryError
    """
    if not directory.exists():
        return
    wanted = {file.name: file for file in files}
    partial = {file.partial_name for file in files}
    others = [
        entry.name
        for entry in sorted(directory.iterdir())
        if entry.name not in partial
        and not (entry.name in wanted and is_whole(entry, wanted[entry.name]))
    ]
    if others:
        named = ", ".join(others[:_LISTED]) + (", …" if len(others) > _LISTED else "")
        raise DirectoryError(
            f"{directory} holds other files: {named}.",
            hint="Choose an empty directory, or allow overwriting files with the same names.",
        )


def is_whole(path: Path, wanted: Wanted) -> bool:
    """Whether a file is there with the very bytes."""
    if not path.is_file() or path.stat().st_size != wanted.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256


class PartialFile:
    """A file on its way; its bytes so far are kept when the download ends early."""

    def __init__(self, directory: Path, wanted: Wanted) -> None:
        self.wanted = wanted
        self._target = directory / wanted.name
        self._path = directory / wanted.partial_name
        self._digest = hashlib.sha256()
        self._file = self._path.open("ab+")
        self.size = 0
        self.found_bytes = self._read()

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            DownloadError: they are more than the service promised.
        """
        if self.size + len(chunk) > self.wanted.size:
            raise DownloadError(f"{self.wanted.name} has more than {self.wanted.size} bytes.")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget all bytes."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = self.found_bytes = 0

    @property
    def is_right(self) -> bool:
        """Whether the bytes so far are all of the promised ones."""
        return self._digest.hexdigest() == self.wanted.sha256

    def finish(self) -> None:
        """Check the bytes and give the file its name.

        Raises:
            DownloadError: they are other bytes; they are not kept.
        """
        if not self.is_right:
            found = self._digest.hexdigest()
            self.close()
            self._path.unlink()
            raise DownloadError(
                f"{self.wanted.name}: its sha256 is {found}, not {self.wanted.sha256}.",
                hint="The file was damaged on its way and is not kept; download it again.",
            )
        self.close()
        self._path.replace(self._target)

    def close(self) -> None:
        """Keep what is there for the next time."""
        self._file.close()

    def _read(self) -> int:
        """Digest what an earlier download left."""
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._digest.update(block)
            self.size += len(block)
        if self.size > self.wanted.size:
            self.restart()
        return self.size
