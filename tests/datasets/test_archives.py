"""Archives and other files without rows are rejected by their content, with any content type."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.models import Blob, BlobChunk, Dataset, DatasetUploadPart
from tests.datasets.test_file_types import FILES
from tests.datasets.test_uploads import NDJSON, parquet, rows_in
from tests.world import pairs


def tar(mode: str) -> bytes:
    """Return a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("pairs.jsonl")
        member.size = len(pairs(50))
        archive.addfile(member, io.BytesIO(pairs(50)))
    return file.getvalue()


#: Beginnings of files of libraries and programs, long enough for detection, with their names.
ARCHIVES = {
    "zip": (FILES["zip"], "a zip archive"),
    "empty.zip": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
    "zip.001": (b"PK\x07\x08PK\x03\x04" + bytes(60), "a piece of a split zip archive"),
    "tar": (tar("w"), "a tar archive"),
    "tar.gz": (tar("w:gz"), "a tar archive"),
    "tar.bz2": (tar("w:bz2"), "a tar archive"),
    "tar.xz": (tar("w:xz"), "a tar archive"),
    "zip.gz": (gzip.compress(FILES["zip"], mtime=0), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(60), "a 7-Zip archive"),
    "rar4": (b"Rar!\x1a\x07\0" + bytes(60), "a RAR archive"),
    "rar5": (b"Rar!\x1a\x07\x01\0" + bytes(60), "a RAR archive"),
    "cab": (b"MSCF\0\0\0\0" + bytes(60), "a cabinet archive"),
    "lz": (b"LZIP\x01\x0c" + bytes(60), "compressed with lzip"),
    "Z": (b"\x1f\x9d\x90" + bytes(60), "compressed with compress"),
    "lz4": (FILES["lz4"], "compressed with LZ4"),
    "xlsx": (FILES["xlsx"], "an Excel workbook"),
    "pdf": (FILES["pdf"], "a PDF document"),
    "pickle": (FILES["pickle"], "a Python pickle"),
    "pt": (FILES["torch"], "a file of torch.save"),
    "npy": (FILES["npy"], "a NumPy array"),
    "utf16": (FILES["utf16"], "UTF-16 text"),
}
TYPES = {
    "octet-stream": {"Content-Type": "application/octet-stream"},
    "told": {"Content-Type": "application/x-ndjson"},
    "curl": {"Content-Type": "application/x-www-form-urlencoded"},
    "its own": {"Content-Type": "application/zip"},
    "none": {},
}
named = pytest.mark.parametrize("name", ARCHIVES)
few = pytest.mark.parametrize("name", ["zip", "tar.gz"])


def check(answer: Any, name: str, start: str = "line 1: ") -> None:
    document = answer.json()
    assert (answer.status_code, document["code"]) == (422, "invalid_dataset"), document
    assert document["detail"] == f"{start}the file is {ARCHIVES[name][1]}. Nothing was stored."
    assert document["hint"]


@named
def test_upload_is_refused_by_its_content(client: TestClient, engine: Engine, name: str) -> None:
    headers = TYPES["octet-stream"]
    check(client.post("/v1/datasets", content=ARCHIVES[name][0], headers=headers), name)
    assert rows_in(engine, Dataset, Blob, BlobChunk) == [0, 0, 0]


@few
def test_upload_is_refused_whatever_it_was_sent_as(client: TestClient, name: str) -> None:
    for headers in TYPES.values():
        check(client.post("/v1/datasets", content=ARCHIVES[name][0], headers=headers), name)


@few
def test_multipart_upload_is_refused_by_its_content(client: TestClient, name: str) -> None:
    files = {"file": (f"pairs.{name}", ARCHIVES[name][0], "application/octet-stream")}
    check(client.post("/v1/datasets", files=files), name)


@few
def test_part_is_refused_by_its_content(client: TestClient, engine: Engine, name: str) -> None:
    upload = client.post("/v1/datasets/uploads").headers["location"]
    sent = {"content": ARCHIVES[name][0], "headers": TYPES["octet-stream"]}
    check(client.put(f"{upload}/parts/1", **sent), name)
    assert rows_in(engine, DatasetUploadPart) == [0]


def test_archive_is_told_what_to_do(client: TestClient) -> None:
    answer = client.post(
        "/v1/datasets", content=ARCHIVES["zip"][0], headers=TYPES["octet-stream"]
    ).json()
    assert answer["hint"].startswith("unpack it and upload the files inside")
    assert "parts of one upload" in answer["hint"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_text_of_an_unknown_format_is_asked_for(client: TestClient, pack: Any) -> None:
    packed = pack(pairs(5))
    answer = client.post("/v1/datasets", content=packed, headers=TYPES["octet-stream"])
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert client.post("/v1/datasets", content=packed, headers=NDJSON).status_code == 201


def test_parquet_needs_no_name(client: TestClient) -> None:
    answer = client.post("/v1/datasets", content=parquet(3), headers=TYPES["octet-stream"])
    assert (answer.status_code, answer.json()["source_format"]) == (201, "parquet")
    image = client.post("/v1/datasets", content=parquet(3), headers={"Content-Type": "image/png"})
    assert image.status_code == 422
    assert "application/vnd.apache.parquet" in image.json()["hint"]
