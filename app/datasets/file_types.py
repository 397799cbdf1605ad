"""Detect the type of an upload from its first bytes.

Errors name this type if a file does not have the declared format. Nothing here parses a file: the
result is a guess for a message.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from app.datasets.row_errors import FileError

#: Number of bytes at the beginning of a file that `file_type` reads.
HEAD_BYTES = 4096

_UNPACK = "unpack it and upload the files inside; several become the parts of one upload"
_REPACK = "unpack it, or compress it with gzip instead"
_AS_PAIRS = "upload preference pairs as JSONL, CSV or Parquet"
_NO_PICKLES = "write the pairs as JSONL; pickles are not read"
_ONE_PER_LINE = "write one JSON object per line, each on a single line"


@dataclass(frozen=True)
class FileType:
    """Type of a file.

    ``description`` completes "the file is …". ``advice`` says how to send or convert the file.
    """

    name: str
    description: str
    advice: str


_SEND_AS = "send it with content type {0}, ?format={1}, or a file name that ends in .{1}"
JSONL = FileType("jsonl", "JSONL", _SEND_AS.format("application/x-ndjson", "jsonl"))
CSV = FileType("csv", "CSV", _SEND_AS.format("text/csv", "csv"))
PARQUET = FileType(
    "parquet", "Parquet", _SEND_AS.format("application/vnd.apache.parquet", "parquet")
)
ARROW = FileType(
    "arrow",
    "an Arrow (Feather) file",
    _SEND_AS.format("application/vnd.apache.arrow.file", "arrow"),
)
ARROW_STREAM = FileType("arrow", "an Arrow stream", ARROW.advice)
_PACKED = "name the format of its content (JSONL, JSON, CSV or TSV), and compress it once"
GZIP = FileType("gzip", "gzip", _PACKED)
XZ = FileType("xz", "compressed with xz", _PACKED)
BZIP2 = FileType("bzip2", "compressed with bzip2", _PACKED)
ZSTD = FileType("zstd", "compressed with Zstandard", _PACKED)
JSON_ARRAY = FileType("json_array", "a JSON array", _SEND_AS.format("application/json", "json"))
JSON_OBJECT = FileType("json_object", "JSON spread over several lines", _ONE_PER_LINE)
PYTHON = FileType("python", "Python literals", "write JSON: double quotes, true, false and null")
TSV = FileType("tsv", "separated by tabs", _SEND_AS.format("text/tab-separated-values", "tsv"))
SEMICOLONS = FileType("semicolons", "separated by semicolons", "separate the cells with commas")
HTML = FileType(
    "html", "a web page (HTML)", "download the data file itself, not the page that shows it"
)
XML = FileType("xml", "XML", _AS_PAIRS)
YAML = FileType("yaml", "YAML", _ONE_PER_LINE)
UTF16 = FileType("utf16", "UTF-16 text", "save it as UTF-8")
ZIP = FileType("zip", "a zip archive", _UNPACK)
_XLSX = FileType("xlsx", "an Excel workbook", "save it as CSV (UTF-8)")
_ODS = FileType("ods", "an OpenDocument file", "save it as CSV (UTF-8)")
_DOCX = FileType("docx", "a Word document", _AS_PAIRS)
_TORCH = FileType("torch", "a file of torch.save", _NO_PICKLES)
_LFS = FileType(
    "git_lfs",
    "a Git LFS pointer",
    "fetch the data with `git lfs pull` and upload them",
)

#: (offset, expression for the bytes there, type); the first match wins. A magic number that
#: consists of letters must be followed by bytes that text cannot have, because the name of a
#: column could start with the same letters.
_MAGIC = (
    (0, rb"PAR1", PARQUET),
    (0, rb"PARE", FileType("parquet", "encrypted Parquet", "write it without encryption")),
    (0, rb"\x1f\x8b", GZIP),
    (0, rb"PK\x03\x04", ZIP),
    (0, rb"PK\x05\x06", FileType("zip", "an empty zip archive", _AS_PAIRS)),
    (0, rb"PK\x07\x08", FileType("zip", "a piece of a split zip archive", _UNPACK)),
    (0, rb"ARROW1\0\0", ARROW),
    (0, rb"\xff\xff\xff\xff", ARROW_STREAM),
    (0, rb"FEA1\0", FileType("feather", "a Feather V1 file", "write it with version 2")),
    (0, rb"ORC(?=.{0,99}[\0-\x08])", FileType("orc", "ORC", "write it as Parquet")),
    (0, rb"Obj\x01", FileType("avro", "Avro", "write it as Parquet")),
    (0, rb"\x28\xb5\x2f\xfd", ZSTD),
    (0, rb"BZh[1-9](1AY&SY|\x17rE8P)", BZIP2),
    (0, rb"\xfd7zXZ\0", XZ),
    (0, rb"\x04\x22\x4d\x18", FileType("lz4", "compressed with LZ4", _REPACK)),
    (0, rb"\xff\x06\0\0sNaPpY", FileType("snappy", "compressed with Snappy", _REPACK)),
    (0, rb"7z\xbc\xaf\x27\x1c", FileType("7z", "a 7-Zip archive", _UNPACK)),
    (0, rb"Rar!\x1a\x07", FileType("rar", "a RAR archive", _UNPACK)),
    (0, rb"MSCF\0\0\0\0", FileType("cab", "a cabinet archive", _UNPACK)),
    (0, rb"LZIP\x01", FileType("lzip", "compressed with lzip", _REPACK)),
    (0, rb"\x1f\x9d", FileType("compress", "compressed with compress", _REPACK)),
    (257, rb"ustar", FileType("tar", "a tar archive", _UNPACK)),
    (0, rb"%PDF-", FileType("pdf", "a PDF document", _AS_PAIRS)),
    (0, rb"\{\\rtf", FileType("rtf", "a rich text document (RTF)", _AS_PAIRS)),
    (0, rb"\xd0\xcf\x11\xe0\xa1\xb1", FileType("ole", "an old Office document", _AS_PAIRS)),
    (0, rb"\x89PNG\r\n", FileType("png", "a PNG image", _AS_PAIRS)),
    (0, rb"\xff\xd8\xff", FileType("jpeg", "a JPEG image", _AS_PAIRS)),
    (0, rb"GIF8[79]a", FileType("gif", "a GIF image", _AS_PAIRS)),
    (0, rb"SQLite format 3\0", FileType("sqlite", "an SQLite database", _AS_PAIRS)),
    (0, rb"\x89HDF\r\n", FileType("hdf5", "HDF5", _AS_PAIRS)),
    (0, rb"\x93NUMPY", FileType("npy", "a NumPy array", _AS_PAIRS)),
    (0, rb"\x80[\x02-\x05][\x95\]}(cq]", FileType("pickle", "a Python pickle", _NO_PICKLES)),
    (0, rb"\x7fELF", FileType("elf", "a program", _AS_PAIRS)),
    (0, rb"version https://git-lfs\.github\.com/spec/", _LFS),
    (0, rb"\xff\xfe\0\0|\0\0\xfe\xff", FileType("utf32", "UTF-32 text", "save it as UTF-8")),
    (0, rb"\xff\xfe|\xfe\xff", UTF16),
)
_COMPILED = [(offset, re.compile(magic, re.DOTALL), kind) for offset, magic, kind in _MAGIC]
_IN_ZIP = (
    (b"xl/", _XLSX),
    (b"application/vnd.oasis.opendocument", _ODS),
    (b"word/", _DOCX),
    (b"/data.pkl", _TORCH),
)
_BOM = b"\xef\xbb\xbf"
_COLUMN = re.compile(r"[^\W\d][\w.:/-]{0,63}( [\w.:/-]{1,32})?")
_PYTHON_ITEM = re.compile(r"[{(\[]\s*'[^']*'\s*[:,]")


def file_type(head: bytes) -> FileType | None:
    """Return the type of a file that begins with ``head``, or None if it is unknown.

    Args:
        head: The file's first bytes, best `HEAD_BYTES` of them. Fewer make detection less reliable.
    """
    head = head[:HEAD_BYTES]
    return binary_type(head) or text_type(head)


def binary_type(head: bytes) -> FileType | None:
    """Return the type of a file that is not UTF-8 text, or None."""
    for offset, magic, kind in _COMPILED:
        if magic.match(head, offset):
            if kind is ZIP:
                return next((inner for mark, inner in _IN_ZIP if mark in head), ZIP)
            return kind
    # Every second byte of ASCII text in UTF-16 is zero.
    even, odd = head[:64:2], head[1:64:2]
    if len(odd) >= 4 and any(even) != any(odd):
        return UTF16
    return None


def text_type(head: bytes) -> FileType | None:
    """Return the type of a text file, detected from its first line that is not blank, or None."""
    text = head.removeprefix(_BOM).decode("utf-8", "replace").lstrip()
    line = text.partition("\n")[0].rstrip("\r")
    low = line[:200].lower()
    if low.startswith(("<!doctype html", "<html", "<head", "<body")):
        return HTML
    if low.startswith(("<?xml", "<!doctype")):
        return XML
    if low.startswith(("---", "%yaml", "- ")):
        return YAML
    if _PYTHON_ITEM.match(line):
        return PYTHON
    if line.startswith("["):
        return JSON_ARRAY
    if line.startswith("{"):
        # A line that the head cuts may be cut anywhere, also after a comma.
        is_whole = "\n" in text or len(head) < HEAD_BYTES
        end = line.rstrip()
        is_open = is_whole and end.endswith(("{", "[", ",")) and not end.endswith("},")
        return JSON_OBJECT if is_open else JSONL
    for delimiter, kind in ((",", CSV), ("\t", TSV), (";", SEMICOLONS)):
        if _is_header(line, delimiter):
            return kind
    return None


def _is_header(line: str, delimiter: str) -> bool:
    """Return whether a line looks like the names of two or more columns."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return False
    return len(cells) > 1 and all(_COLUMN.fullmatch(cell.strip()) for cell in cells)


def wrong_format(kind: FileType, expected: FileType) -> FileError:
    """Return the error for a file that does not have the declared format."""
    message = f"the file is {kind.description}, not {expected.description}"
    return FileError("wrong_format", message, kind.advice, line=1)


def check_first_line(line: bytes, *expected: FileType) -> None:
    """Reject a text file whose first line belongs to a file type other than ``expected``.

    Raises:
        FileError: the line belongs to another file type.
    """
    kind = text_type(line[:HEAD_BYTES])
    if kind is not None and kind not in expected:
        raise wrong_format(kind, expected[0])
