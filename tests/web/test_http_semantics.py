"""HEAD wherever there is GET, and list fields on several lines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.web import http_protocol
from app.web.problem_details import problem_types
from tests.world import World

OPENAPI = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
#: Every path with GET, with ids that do not exist.
PATHS = [
    re.sub(r"\{(\w+)\}", "job_" + "0" * 32, path)
    for path, operations in OPENAPI["paths"].items()
    if "get" in operations
]
PAGES = ["/", "/docs", "/static/main.js", "/openapi.json", "/nothing"]


def test_head_is_answered_as_get_without_a_body(client: TestClient) -> None:
    assert len(PATHS) > 30
    for path in [*PATHS, *PAGES]:
        get, head = client.get(path), client.head(path)
        assert head.status_code == get.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/v1/jobs/job_1/cancel").status_code == 405


def test_head_of_content_that_streams_has_its_fields_and_no_body(
    world: World, client: TestClient
) -> None:
    job = world.submit()
    path = f"/v1/datasets/{job['spec']['train_dataset']}/content"
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for field in ("etag", "content-length", "accept-ranges", "repr-digest"):
        assert head.headers[field] == get.headers[field]
    stream = client.head(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})
    assert (stream.status_code, stream.content) == (200, b"")
    assert stream.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("order", [1, -1])
def test_entity_tags_on_several_lines_are_all_compared(
    world: World, client: TestClient, order: int
) -> None:
    job = world.submit()
    for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}?wait=0", "/static/main.js"):
        tag = client.get(path).headers["etag"]
        lines: Any = [("If-None-Match", '"other"'), ("If-None-Match", tag)][::order]
        assert client.get(path, headers=lines).status_code == 304, path


def test_refusals_of_the_server_are_documented() -> None:
    source = Path(http_protocol.__file__).read_text()
    refused = {
        (int(status), code)
        for status, code in re.findall(r'_refuse\(\s*(\d{3}),\s*"(\w+)"', source)
    }
    assert len(refused) == 4
    assert refused <= {(problem.status, problem.code) for problem in problem_types()}
