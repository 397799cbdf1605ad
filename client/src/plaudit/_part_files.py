"""Files that are uploaded as numbered parts of one dataset."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from plaudit._uploads import CHUNK_BYTES, CONTENT_TYPES, JSONL, PACKED, content_type

#: A larger file of JSON lines is sent in parts: after a lost connection only one is sent again.
LARGE_BYTES = 1 << 30
PART_BYTES = 256 << 20
_ANY = "application/octet-stream"
_ARCHIVES = (".7z", ".rar", ".tar", ".tbz2", ".tgz", ".txz", ".zip")
#: Metadata files that ``datasets`` and other libraries write next to their shards.
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class ReadOptions(TypedDict, total=False):
    """How the service reads the rows; docs/data.md explains each option."""

    columns: Mapping[str, str]
    """Column names by role: ``{"prompt": "question"}``."""
    labels: Mapping[str, str]
    """Meaning of the values of the label column: ``{"a": "1", "b": "0"}``."""
    ignore_columns: Sequence[str]
    """Columns to ignore although they contain text."""
    on_invalid: Literal["refuse", "skip"]
    """``refuse`` (default): one invalid row refuses the upload. ``skip``: leave invalid rows out
    and count them by reason."""
    chat_template_kwargs: Mapping[str, bool | int | float | str]
    """Variables of the chat template for all rows: ``{"enable_thinking": False}``."""


@dataclass(frozen=True)
class Part:
    """A file, or the bytes of a file from ``start`` up to ``stop``."""

    path: Path
    start: int
    stop: int
    content_type: str
    file_format: str | None = None
    """The format that the caller gave; None: the service detects it."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks of at most one mebibyte."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
        if left:
            raise ValueError(f"{self.path} changed while it was uploaded; repeat the upload.")

    def sha256(self) -> str:
        """Return the SHA-256 checksum of the bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def read_query(options: ReadOptions) -> dict[str, object]:
    """Return the options as query parameters."""
    query: dict[str, object] = {}
    for group in ("columns", "labels"):
        given: Mapping[str, str] = options.get(group) or {}  # type: ignore[assignment]
        query |= {f"{group}[{part}]": value for part, value in given.items()}
    # As JSON, so that the text "1" does not become the number.
    variables = options.get("chat_template_kwargs") or {}
    query |= {f"chat_template_kwargs[{name}]": json.dumps(v) for name, v in variables.items()}
    ignored = options.get("ignore_columns") or ()
    if isinstance(ignored, str):
        raise TypeError("ignore_columns must be a list of column names, not a str.")
    return query | {
        "ignore_columns": ",".join(ignored) or None,
        "on_invalid": options.get("on_invalid"),
    }


def part_files(source: Any, file_format: str | None) -> list[Part] | None:
    """Return the parts of a directory, of several files or of one large file of JSON lines.

    Returns None for any other source: it is sent in one request.

    Raises:
        FileNotFoundError: a file is missing, or the directory has no data files.
        IsADirectoryError: one of several paths is a directory.
        ValueError: a file is an archive, or its name does not show its format and ``file_format``
            is None.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return _pieces(_shards(path), file_format)
        return _pieces([path], file_format) if _is_large(path) else None
    is_paths = isinstance(source, list | tuple) and source
    if is_paths and all(isinstance(item, str | os.PathLike) for item in source):
        return _pieces([Path(item) for item in source], file_format)
    return None


def _shards(directory: Path) -> list[Path]:
    """Return the data files of a directory, sorted by name with numbers in numeric order."""
    files = [path for path in directory.iterdir() if path.is_file()]
    for path in files:
        _refuse_archive(path)  # what is in it would be left out
    found = [path for path in files if _is_data(path)]
    if not found:
        kinds = ", ".join(sorted(CONTENT_TYPES))
        raise FileNotFoundError(f"{directory} contains no data files ({kinds}).")
    return sorted(found, key=lambda path: _natural(path.name))


def _is_data(path: Path) -> bool:
    is_hidden = path.name.startswith(".") or path.name in _NOT_DATA
    return not is_hidden and content_type(path) is not None


def _refuse_archive(path: Path) -> None:
    plain = path.stem if path.suffix.lower() in PACKED else path.name
    if plain.lower().endswith(_ARCHIVES):
        raise ValueError(f"{path} is an archive: unpack it, and upload the files inside.")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(text or -1), rest) for text, rest in re.findall(r"(\d*)(\D*)", name)]


def _is_large(path: Path) -> bool:
    is_lines = content_type(path) == JSONL and path.suffix.lower() not in PACKED
    return is_lines and path.is_file() and path.stat().st_size > LARGE_BYTES


def _pieces(paths: list[Path], file_format: str | None) -> list[Part]:
    parts: list[Part] = []
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory: upload it alone, or name its files.")
        _refuse_archive(path)
        kind = content_type(path) or (_ANY if file_format else None)
        if kind is None:
            raise ValueError(
                f"The name of {path} does not show the format of the file; pass format=…."
            )
        size = path.stat().st_size
        ends = _line_ends(path, size) if _is_large(path) else [size]
        for start, stop in zip([0, *ends], ends, strict=False):
            parts.append(Part(path, start, stop, kind, file_format))
    return parts


def _line_ends(path: Path, size: int) -> list[int]:
    """Return offsets of line ends, about ``PART_BYTES`` apart; the last is the file size."""
    ends: list[int] = []
    with path.open("rb") as file:
        while (ends[-1] if ends else 0) + PART_BYTES < size:
            file.seek((ends[-1] if ends else 0) + PART_BYTES)
            file.readline()
            ends.append(file.tell())
    return ends if ends and ends[-1] == size else [*ends, size]
