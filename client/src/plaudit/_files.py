"""Files of a download: resumes partial files and verifies the checksums of complete ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plaudit.errors import DirectoryError, DownloadError

_BLOCK_BYTES = 1 << 20
#: File names without path separators: they cannot lead out of a directory.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_LISTED = 5


@dataclass(frozen=True)
class RemoteFile:
    """A file as the service describes it."""

    name: str
    size: int
    """Bytes."""
    sha256: str

    @property
    def partial_name(self) -> str:
        """Name of the partial file; it includes the checksum, so that only the same content is
        resumed."""
        return f"{self.name}.{self.sha256[:12]}.part"

    @property
    def etag(self) -> str:
        """The entity tag that the service sends for this content."""
        return f'"sha256-{self.sha256}"'


def check_names(files: Iterable[RemoteFile]) -> None:
    """Refuse file names that could lead out of the directory.

    Raises:
        DownloadError: a name is not a plain file name.
    """
    for file in files:
        if not _FILE_NAME.fullmatch(file.name):
            raise DownloadError(
                f"The service sent the file name {file.name!r}, which is not a plain file name."
            )


def check_directory(directory: Path, files: Sequence[RemoteFile]) -> None:
    """Refuse a directory that contains anything but these files, complete or partial.

    Raises:
        DirectoryError: the directory contains other files; the message names the first five.
        NotADirectoryError: the path is not a directory.
    """
    if not directory.exists():
        return
    wanted = {file.name: file for file in files}
    partial = {file.partial_name for file in files}
    others = [
        entry.name
        for entry in sorted(directory.iterdir())
        if entry.name not in partial
        and not (entry.name in wanted and is_complete(entry, wanted[entry.name]))
    ]
    if others:
        named = ", ".join(others[:_LISTED]) + (", …" if len(others) > _LISTED else "")
        raise DirectoryError(
            f"{directory} contains other files: {named}.",
            hint="Choose an empty directory, or allow overwriting files with the same names.",
        )


def is_complete(path: Path, wanted: RemoteFile) -> bool:
    """Return whether a file exists with the expected size and checksum."""
    if not path.is_file() or path.stat().st_size != wanted.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256


class PartialFile:
    """A file that is being downloaded. An interrupted download keeps the bytes it received."""

    def __init__(self, directory: Path, wanted: RemoteFile) -> None:
        self.wanted = wanted
        self._target = directory / wanted.name
        self._path = directory / wanted.partial_name
        self._digest = hashlib.sha256()
        self._file = self._path.open("ab+")
        self.size = 0
        self.resumed_bytes = self._read()

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            DownloadError: the file would be larger than the service announced.
        """
        if self.size + len(chunk) > self.wanted.size:
            raise DownloadError(
                f"{self.wanted.name} has more than the {self.wanted.size} bytes that the service "
                "announced."
            )
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Discard all bytes."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = self.resumed_bytes = 0

    @property
    def is_verified(self) -> bool:
        """Whether the bytes so far have the expected checksum."""
        return self._digest.hexdigest() == self.wanted.sha256

    def finish(self) -> None:
        """Verify the checksum and give the file its final name.

        Raises:
            DownloadError: the checksum is wrong; the bytes are deleted.
        """
        if not self.is_verified:
            found = self._digest.hexdigest()
            self.close()
            self._path.unlink()
            raise DownloadError(
                f"{self.wanted.name}: its sha256 is {found}, not {self.wanted.sha256}.",
                hint="The file was damaged in transit and was deleted; download it again.",
            )
        self.close()
        self._path.replace(self._target)

    def close(self) -> None:
        """Close the file; its bytes stay, so that another download can resume."""
        self._file.close()

    def _read(self) -> int:
        """Hash the bytes that an earlier download left, and return their number."""
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._digest.update(block)
            self.size += len(block)
        if self.size > self.wanted.size:
            self.restart()
        return self.size
