"""File formats: text, JSON documents and columnar files, each of them also compressed."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.datasets import byte_streams
from app.datasets.containers import TextFormat
from app.datasets.reading import DatasetReader, ReadLimits
from app.datasets.row_errors import InvalidDatasetError, RowProblem
from app.datasets.spooling import SpooledFile

MIB = 1 << 20
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROWS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"Frage {n}, \"bitte\"?\n[1]"}],
        "chosen": [{"role": "assistant", "content": f"gut\t{n} 😀"}],
        "rejected": [{"role": "assistant", "content": "schlecht, {}"}],
    }
    for n in range(1, 60)
]  # fmt: skip


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(c if isinstance(c, str) else json.dumps(c) for c in row.values())
    return out.getvalue().encode()


def arrow(rows: list[dict[str, Any]], open_writer: Callable[..., Any]) -> bytes:
    table = pyarrow.Table.from_pylist(rows)
    out = io.BytesIO()
    with open_writer(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def feather(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


TEXT: dict[str, tuple[TextFormat, Callable[[list[dict[str, Any]]], bytes]]] = {
    "JSON lines": ("jsonl", jsonl),
    "JSON array": ("json", lambda rows: json.dumps(rows).encode()),
    "JSON array, indented": ("json", lambda rows: json.dumps(rows, indent=2).encode()),
    "JSON array announced as lines": ("jsonl", lambda rows: json.dumps(rows).encode()),
    "JSON lines announced as a document": ("json", jsonl),
    "wrapped array": ("json", lambda rows: json.dumps({"data": rows}, indent=1).encode()),
    "CSV": ("csv", lambda rows: separated(rows, ",")),
    "TSV": ("tsv", lambda rows: separated(rows, "\t")),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "two bzip2 streams": lambda data: bz2.compress(data[:500]) + bz2.compress(data[500:]),
    "two xz streams": lambda data: lzma.compress(data[:500]) + lzma.compress(data[500:]) + bytes(4),
}
COLUMNAR: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "Parquet": parquet,
    "Parquet, zstd": lambda rows: parquet(rows, compression="zstd", row_group_size=9),
    "Arrow file": lambda rows: arrow(rows, pyarrow.ipc.new_file),
    "Arrow stream": lambda rows: arrow(rows, pyarrow.ipc.new_stream),
    "Feather": feather,
    "Feather, zstd": lambda rows: feather(rows, compression="zstd"),
}


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, text_format: TextFormat, size: int = 1000) -> list[dict[str, Any]]:
    blocks = b"".join(DatasetReader().read(cut(data, size), text_format))
    return [json.loads(line) for line in blocks.split(b"\n")[:-1]]


def problem(data: bytes, text_format: TextFormat = "jsonl", **limits: int) -> RowProblem:
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader(ReadLimits(**limits)).read(cut(data, 700), text_format))
    return caught.value.rows[0]


def without_lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "line"} for row in rows]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", TEXT)
def test_the_same_rows_come_out_of_every_text_container(name: str, packed: str) -> None:
    text_format, write = TEXT[name]
    assert without_lines(read(PACKED[packed](write(ROWS)), text_format)) == ROWS


@pytest.mark.parametrize("name", COLUMNAR)
def test_the_same_rows_come_out_of_every_columnar_container(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(COLUMNAR[name](ROWS))
    blocks = b"".join(DatasetReader().read_columnar(SpooledFile(path)))
    rows = [json.loads(line) for line in blocks.split(b"\n")[:-1]]
    assert without_lines(rows) == ROWS
    assert [row["line"] for row in rows] == list(range(1, len(ROWS) + 1))


def test_zstandard_is_unpacked_by_the_child(tmp_path: Path) -> None:
    path = tmp_path / "rows.zst"
    path.write_bytes(zstd(jsonl(ROWS)))
    blocks = b"".join(DatasetReader().read_zstd(SpooledFile(path), "jsonl"))
    assert without_lines([json.loads(line) for line in blocks.split(b"\n")[:-1]]) == ROWS
    path.write_bytes(zstd(jsonl(ROWS))[:-20])
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader().read_zstd(SpooledFile(path), "jsonl"))
    assert caught.value.rows[0].code == "invalid_archive"


@unhurried
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=5),
    st.integers(1, 50),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_array_is_cut_into_its_elements_wherever_the_chunks_end(
    texts: list[str], size: int, indent: int | None, is_ascii: bool
) -> None:
    rows = [{"prompt": "p", "chosen": f"c{t}", "rejected": "r", "n": [t, {}]} for t in texts]
    document = json.dumps({"rows": rows} if size % 2 else rows, indent=indent,
                          ensure_ascii=is_ascii)  # fmt: skip
    try:
        found = read(document.encode(), "json", size)
    except InvalidDatasetError as error:
        assert {row.code for row in error.rows} <= {"nul_character", "unused_column"}  # noqa: PT017
        return
    assert [row["chosen"] for row in found] == [row["chosen"] for row in rows]
    assert [row["line"] for row in found] == list(range(1, len(rows) + 1))


GOOD = b'{"chosen": "a", "rejected": "b"}'


@pytest.mark.parametrize(
    ("document", "line", "code", "says"),
    [
        (b"[]", 1, "empty_dataset", "no rows"),
        (b"[" + GOOD, 1, "invalid_json", "the document ends where"),
        (b"[" + GOOD + b"] x", 1, "invalid_json", "after the end of the document"),
        (b"[" + GOOD + b" " + GOOD + b"]", 1, "invalid_json", 'found "{" where "]"'),
        (b"[" + GOOD + b', {"chosen": ]', 2, "invalid_json", "row 2 of the JSON array"),
        (b"[" + GOOD + b", 5]", 2, "not_an_object", "a number"),
        (b"[" + GOOD + b", " + GOOD, 2, "invalid_json", "the document ends where"),
        (b"[" + GOOD + b', {"chosen": "a", "chosen": "b"}]', 2, "duplicate_key", '"chosen"'),
        (b"[" + GOOD + b', {"chosen": "\xff"}]', 1, "invalid_utf8", "0xff"),
        (b"[" + GOOD + b"," + b"[" * 9000, 2, "invalid_json", "nested deeper"),
        (b'{"data": [' + GOOD + b'], "version": 1}', 1, "invalid_json", "another key"),
        (b'{"data": [' + GOOD + b"]", 1, "invalid_json", "the document ends"),
        (b'{\n "chosen": "a",\n "rejected": "b"\n}', 1, "wrong_format", "over several lines"),
    ],
)
def test_bad_document_is_told(document: bytes, line: int, code: str, says: str) -> None:
    found = problem(document, "json")
    assert (found.line, found.code) == (line, code)
    assert says in found.message


def test_array_goes_on_after_a_bad_element() -> None:
    document = b"[" + b", ".join([GOOD, b'{"chosen": 1, "rejected": "b"}', GOOD, b"[]"]) + b"]"
    with pytest.raises(InvalidDatasetError) as caught:
        read(document, "json")
    assert [(row.line, row.code) for row in caught.value.rows] == [
        (2, "wrong_type"),
        (4, "not_an_object"),
    ]


def test_array_is_read_in_little_memory() -> None:
    row = json.dumps({"chosen": "g" * 4000, "rejected": "b"}).encode()
    chunks = [b"[" + row, *[b"," + row] * 5000, b"]"]
    tracemalloc.start()
    try:
        assert sum(map(len, DatasetReader().read(chunks, "json"))) > 19 * MIB
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        endless = (b'"' + b"a" * 60_000 for _ in range(500))
        with pytest.raises(InvalidDatasetError):
            list(DatasetReader().read([b"[", *endless], "json"))
        endless_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert endless_peak < 40 * MIB  # most of it is the list of chunks


def archive(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("rows.jsonl", data)
    return out.getvalue()


def tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(data)
        file.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (archive(jsonl(ROWS)), "a zip archive"),
        (tar(jsonl(ROWS)), "a tar archive"),
        (gzip.compress(gzip.compress(jsonl(ROWS), mtime=0), mtime=0), "gzip"),
        (gzip.compress(parquet(ROWS), mtime=0), "Parquet"),
        (b"FEA1" + bytes(60), "a Feather V1 file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x80\x04\x95rest", "a Python pickle"),
        ('{"chosen": "a"}'.encode("utf-16"), "UTF-16 text"),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, says: str) -> None:
    found = problem(data)
    assert found.code == "wrong_format"
    assert says in found.message
    assert found.hint


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_broken_archive_is_refused(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(jsonl(ROWS) * 9)
    assert problem(packed[:-30]).message.endswith("end too early")
    assert problem(packed[:60] + b"x" * 40 + packed[100:]).code == "invalid_archive"


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_archive_bomb_is_refused_in_little_memory(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(300 * MIB))
    tracemalloc.start()
    try:
        found = problem(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.code == "compression_ratio"
    assert peak < 24 * MIB


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_file_of_empty_members_is_refused_before_they_cost_time(
    pack: Callable[[bytes], bytes],
) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield pack(b"") * 1000

    with pytest.raises(InvalidDatasetError) as error:
        list(DatasetReader().read(chunks(), "jsonl"))
    assert error.value.rows[0].code == "compression_ratio"
    assert taken <= 2


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_file_of_many_members_with_content_is_read(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_streams, "FREE_MEMBERS", 1)
    member = jsonl(ROWS)
    assert len(member) > byte_streams.MIN_MEMBER_BYTES
    assert len(read(pack(member) * 10, "jsonl")) == 10 * len(ROWS)


def test_file_that_needs_too_much_memory_to_unpack_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 * MIB}]
    packed = lzma.compress(jsonl(ROWS), lzma.FORMAT_XZ, filters=filters)
    found = problem(packed)
    assert found.code == "invalid_archive"
    assert "emory" in found.message


def test_unpacked_bytes_are_bounded() -> None:
    packed = gzip.compress(jsonl(ROWS), mtime=0)
    assert problem(packed, max_bytes=1000).code == "too_large"


def test_semicolons_are_told() -> None:
    found = problem(b"prompt;chosen;rejected\na;b;c\n", "csv")
    assert (found.line, found.code) == (1, "wrong_format")
    assert "separated by semicolons" in found.message


def test_tabs_in_a_header_make_csv_tsv() -> None:
    rows = [{"prompt": "p", "chosen": 'a, "b"', "rejected": "c"}]
    assert without_lines(read(separated(rows, "\t"), "csv")) == rows


def test_index_that_pandas_writes_is_no_text() -> None:
    data = ",prompt,chosen,rejected\n0,p,a,b\n1,p,a,b\n"
    assert len(read(data.encode(), "csv")) == 2
