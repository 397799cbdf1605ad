"""Downloads: exact ranges, resumption, and no mix of two versions."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from typing import Any

import pytest
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.storage.blobs import CHUNK_BYTES
from app.web.range_response import parse_range
from tests.world import World

#: Spans three chunks; its length is not a multiple of the tar block size.
WEIGHTS = bytes(i * 7 % 251 for i in range(2 * CHUNK_BYTES + 333))
FILES = {
    "adapter_model.safetensors": WEIGHTS,
    "adapter_config.json": b'{"r": 16}',
    "README.md": b"",
}


@pytest.fixture
def adapter(world: World, job: dict[str, Any]) -> dict[str, Any]:
    """A published adapter."""
    del job
    adapter_id = world.publish(world.claim(), FILES)
    return dict(world.client.get(f"/v1/adapters/{adapter_id}").json())


@pytest.fixture
def url(adapter: dict[str, Any]) -> str:
    """Path of the weights of the adapter."""
    return f"/v1/adapters/{adapter['id']}/files/adapter_model.safetensors"


def test_file_is_downloaded_with_its_headers(client: TestClient, url: str) -> None:
    answer = client.get(url)
    digest = hashlib.sha256(WEIGHTS)
    assert (answer.status_code, answer.content) == (200, WEIGHTS)
    assert answer.headers["etag"] == f'"sha256-{digest.hexdigest()}"'
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert answer.headers["accept-ranges"] == "bytes"
    encoded = base64.b64encode(digest.digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{encoded}:"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith(
        'attachment; filename="adapter_model.safetensors"'
    )
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-9"}], ids=["whole", "range"])
def test_head_returns_the_headers_of_get(
    client: TestClient, url: str, headers: dict[str, str]
) -> None:
    headers = {**headers, "x-request-id": "same"}
    got, head = client.get(url, headers=headers), client.head(url, headers=headers)
    assert head.content == b""
    assert head.status_code == got.status_code
    assert head.headers == got.headers


RANGES: list[tuple[str, int, slice | None]] = [
    ("bytes=0-0", 206, slice(0, 1)),
    ("bytes=0-", 206, slice(0, None)),
    ("bytes=-1", 206, slice(-1, None)),
    ("bytes=-99999999999", 206, slice(0, None)),
    (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", 206, slice(CHUNK_BYTES - 1, CHUNK_BYTES + 1)),
    (f"bytes=5-{10**15}", 206, slice(5, None)),
    (f"bytes={len(WEIGHTS)}-", 416, None),
    ("bytes=-0", 416, None),
    ("bytes=9-5", 200, slice(0, None)),
    ("bytes=0-1,4-5", 200, slice(0, None)),
    ("bytes=a-b", 200, slice(0, None)),
    ("bytes=-", 200, slice(0, None)),
    ("items=0-5", 200, slice(0, None)),
    ("bytes=0-" + "9" * 200, 200, slice(0, None)),
    ("bytes=٠-٥", 200, slice(0, None)),
]


# Subtests instead of parametrize: publishing the adapter takes most of the time.
def test_range_header_selects_the_part(
    client: TestClient, url: str, subtests: pytest.Subtests
) -> None:
    for header, status, part in RANGES:
        with subtests.test(header):
            answer = client.get(url, headers={"Range": header.encode()})
            assert answer.status_code == status
            check_part(answer, part)


def check_part(answer: Response, part: slice | None) -> None:
    """Check that a response has that part of the weights, or that there is no such part."""
    if part is None:
        assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"
        assert answer.json()["code"] == "range_not_satisfiable"
        return
    assert answer.content == WEIGHTS[part]
    if answer.status_code == 206:
        start, stop, _ = part.indices(len(WEIGHTS))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(WEIGHTS)}"


@given(st.integers(0, 40), st.integers(0, 45), st.integers(0, 45))
def test_parsed_ranges_match_slices(size: int, first: int, last: int) -> None:
    content = bytes(range(size))
    for header, expected in (
        (f"bytes={first}-{last}", content[first : last + 1] if first <= last else None),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else b""),
    ):
        found = parse_range(header, size)
        if expected is None:
            assert found is None
        else:
            assert found == () if not expected else content[slice(*found or ())] == expected


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_range_of_file_and_archive_matches_the_whole(
    client: TestClient, adapter: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["archive", "files/adapter_model.safetensors"]))
    path = f"/v1/adapters/{adapter['id']}/{name}"
    size = adapter["archive"]["bytes"] if name == "archive" else len(WEIGHTS)
    whole = client.get(path).content
    assert len(whole) == size
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, size + 10))
    answer = client.get(path, headers={"Range": f"bytes={first}-{last}"})
    assert (answer.status_code, answer.content) == (206, whole[first : last + 1])


def test_range_for_another_version_is_ignored(client: TestClient, url: str) -> None:
    etag = client.head(url).headers["etag"]
    part = {"Range": "bytes=10-19"}
    assert client.get(url, headers={**part, "If-Range": etag}).content == WEIGHTS[10:20]
    for other in ('"sha256-0"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = client.get(url, headers={**part, "If-Range": other})
        assert (answer.status_code, len(answer.content)) == (200, len(WEIGHTS))


def test_unchanged_content_is_not_sent_again(client: TestClient, url: str) -> None:
    etag = client.head(url).headers["etag"]
    for known in (etag, f'"a", {etag}', f"W/{etag}", "*"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, url, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_archive_is_deterministic_and_contains_the_files(
    client: TestClient, adapter: dict[str, Any]
) -> None:
    path = f"/v1/adapters/{adapter['id']}/archive"
    first, second = client.get(path), client.get(path)
    assert first.content == second.content
    assert hashlib.sha256(first.content).hexdigest() == adapter["archive"]["sha256"]
    assert first.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(first.content)) as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == sorted(FILES)
        assert {(m.mtime, m.uid, m.gid, m.mode) for m in members} == {(0, 0, 0, 0o644)}
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == FILES[member.name]


@pytest.mark.parametrize("name", ["no_such.bin", "..%2F..%2Fetc%2Fpasswd", ".hidden", "a%00b"])
def test_unknown_file_is_rejected(client: TestClient, adapter: dict[str, Any], name: str) -> None:
    answer = client.get(f"/v1/adapters/{adapter['id']}/files/{name}")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_deleted_adapter_is_not_found_but_its_job_is_kept(
    world: World, client: TestClient, adapter: dict[str, Any]
) -> None:
    path = f"/v1/adapters/{adapter['id']}"
    assert client.delete(path).status_code == 204
    for rest in ("", "/archive", "/files/README.md"):
        assert client.get(path + rest).status_code == 404
    job = client.get(f"/v1/jobs/{adapter['job_id']}").json()
    assert (job["status"], job["adapter_id"]) == ("succeeded", None)


def test_adapters_are_listed_by_job(client: TestClient, adapter: dict[str, Any]) -> None:
    found = client.get(f"/v1/adapters?job_id={adapter['job_id']}").json()["data"]
    assert [a["id"] for a in found] == [adapter["id"]]
    assert client.get(f"/v1/adapters?job_id=job_{'0' * 32}").json()["data"] == []
