"""An error names the real type of a file that does not have the declared format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas
import pyarrow
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.containers import TextFormat
from app.datasets.file_types import HEAD_BYTES, JSONL, check_first_line, file_type
from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.spooling import SpooledFile

ROWS = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
TABLE = pyarrow.Table.from_pylist(ROWS)
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV_TEXT = b"prompt,chosen,rejected\np,a,b\n"


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    """Return the bytes that a library writes to a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(name: str) -> bytes:
    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, JSON_LINES)

    return written(write)


def tarred(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("pairs.jsonl")
        member.size = len(JSON_LINES)
        archive.addfile(member, io.BytesIO(JSON_LINES))


def arrow_stream(file: io.BytesIO) -> None:
    with pyarrow.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)


def packed(codec: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as stream:
        stream.write(JSON_LINES)
    return bytes(sink.getvalue())


def database(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE pairs (chosen, rejected)")
    connection.commit()
    connection.close()
    return path.read_bytes()


#: Files of common libraries, and the names of their types.
FILES = {
    "gzip": gzip.compress(JSON_LINES, mtime=0),
    "bzip2": bz2.compress(JSON_LINES),
    "xz": lzma.compress(JSON_LINES),
    "zstd": packed("zstd"),
    "lz4": packed("lz4"),
    "zip": zipped("pairs.jsonl"),
    "xlsx": zipped("xl/workbook.xml"),
    "docx": zipped("word/document.xml"),
    "torch": written(lambda file: torch.save(ROWS, file)),
    "tar": written(tarred),
    "parquet": written(lambda file: pyarrow.parquet.write_table(TABLE, file)),
    "arrow": written(lambda file: pyarrow.feather.write_feather(TABLE, file)),
    "orc": written(lambda file: pyarrow.orc.write_table(TABLE, file)),
    "npy": written(lambda file: numpy.save(file, numpy.zeros(3))),
    "pickle": pickle.dumps(ROWS),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "utf16": JSON_LINES.decode().encode("utf-16"),
    "utf32": JSON_LINES.decode().encode("utf-32"),
    "git_lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "html": b"\n<!DOCTYPE html>\n<html lang=en><title>Sign in</title></html>\n",
    "xml": b'<?xml version="1.0"?>\n<pairs/>\n',
    "yaml": b"- prompt: p\n  chosen: a\n",
    "json_array": json.dumps(ROWS, indent=1).encode(),
    "json_object": json.dumps({"data": ROWS}, indent=1).encode(),
    "python": repr(ROWS[0]).encode() + b"\n",
    "jsonl": JSON_LINES,
    "csv": CSV_TEXT,
    "tsv": CSV_TEXT.replace(b",", b"\t"),
    "semicolons": CSV_TEXT.replace(b",", b";"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_is_recognised(name: str) -> None:
    found = file_type(FILES[name])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'"prompt","chosen","rejected"\r\n"p","a","b"\r\n', "csv"),
        (pandas.DataFrame(ROWS).to_csv().encode().removeprefix(b","), "csv"),
        (b"\xef\xbb\xbf" + CSV_TEXT, "csv"),
        (b"PK\x05\x06" + bytes(18), "zip"),
        (b"<HTML><body>", "html"),
        (JSON_LINES.decode().encode("utf-16-le"), "utf16"),
        (JSON_LINES.decode().encode("utf-16-be"), "utf16"),
        (written(arrow_stream), "arrow"),
    ],
)
def test_variant_is_recognised(data: bytes, name: str) -> None:
    found = file_type(data)
    assert found is not None
    assert found.name == name


def test_database_is_recognised(tmp_path: Path) -> None:
    found = file_type(database(tmp_path / "pairs.db"))
    assert found is not None
    assert found.name == "sqlite"


@pytest.mark.parametrize(
    "data", [b"", b"\n", bytes(100), b"hello", b"hello world, this is text", b"{", b"x\n" * 9]
)
def test_file_of_no_known_type_is_not_guessed(data: bytes) -> None:
    found = file_type(data)
    assert found is None or found.name == "json_object"


@given(st.binary(max_size=HEAD_BYTES + 10))
def test_any_bytes_are_looked_at(data: bytes) -> None:
    found = file_type(data)
    assert found is None or (found.name and found.description and found.advice)


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()), min_size=1))
def test_no_row_of_jsonl_is_taken_for_another_type(row: dict[str, object]) -> None:
    line = json.dumps(row).encode()
    found = file_type(line)
    assert found is not None
    assert found.name == "jsonl"
    check_first_line(line, JSONL)


@pytest.mark.parametrize("last", ["{", "[", ","])
def test_row_longer_than_the_head_is_jsonl_wherever_it_is_cut(last: str) -> None:
    start = '{"prompt": "'
    line = (start + "x" * (HEAD_BYTES - len(start) - 1) + last + '", "chosen": "y"}\n').encode()
    found = file_type(line)
    assert found is not None
    assert found.name == "jsonl"
    check_first_line(line, JSONL)


#: Types that are only detected after decompression.
PACKED = {"bzip2", "xz"}
WRONG = {
    "jsonl": sorted(FILES.keys() - {"gzip", "jsonl", "json_array", "json_object"}),
    "csv": sorted(FILES.keys() - {"gzip", "csv", "tsv"}),
}


@pytest.mark.parametrize("is_gzipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    ("text_format", "name"),
    [(text_format, name) for text_format, names in WRONG.items() for name in names],
)
def test_upload_of_another_type_is_called_by_its_name(
    text_format: TextFormat, name: str, is_gzipped: bool
) -> None:
    data = gzip.compress(FILES[name], mtime=0) if is_gzipped or name in PACKED else FILES[name]
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader().read([data[:10], data[10:]], text_format))
    (problem,) = caught.value.rows
    kind = file_type(FILES[name])
    assert kind is not None
    assert problem.code == "wrong_format"
    assert problem.message.startswith(f"the file is {kind.description}")
    assert problem.hint == kind.advice


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"parquet", "arrow"}))
def test_file_that_is_no_parquet_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(FILES[name])
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader().read_columnar(SpooledFile(path)))
    (problem,) = caught.value.rows
    assert problem.code == "wrong_format"
    assert problem.message.endswith(", not Parquet")


def test_column_of_a_csv_file_may_look_like_a_magic_number() -> None:
    for column in ("ORC", "BZh", "Rar", "GIF8", "Obj"):
        data = f"{column},chosen,rejected\nx,good,bad\n".encode()
        assert b"".join(DatasetReader().read([data], "csv"))
