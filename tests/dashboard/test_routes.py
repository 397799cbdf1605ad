"""The routes of the dashboard: pages without data, under a strict security policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import dashboard
from app.core.settings import Settings
from app.dashboard.router import PAGES
from app.main import create_app

STATIC = Path(str(dashboard.__file__)).parent / "static"
PATHS = [
    path.format(job_id="job_1", adapter_id="ad_1", dataset_id="ds_1", evaluation_id="ev_1")
    for path in PAGES
]


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.mark.parametrize("path", [*PATHS, "/docs", "/static/main.js", "/static/style.css"])
def test_every_response_forbids_foreign_and_inline_scripts(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PATHS)
def test_page_contains_no_inline_script_and_no_request_data(client: TestClient, path: str) -> None:
    page = client.get(path, params={"canary": "seen"}).text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://", page)
    assert re.findall(r"<script[^>]*>", page) == [
        '<script type="module" src="/static/main.js">'
    ]  # fmt: skip
    assert "canary" not in page
    assert "job_1" not in page


def test_page_needs_no_key_and_checks_no_id(client: TestClient) -> None:
    assert client.get("/jobs/whatever-this-is").status_code == 200


def test_cached_page_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/static/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = client.get("/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["..%2frouter.py", "nothing.js", "%2e%2e"])
def test_only_files_of_the_dashboard_are_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("script", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_use_no_markup_insertion_and_no_permanent_storage(script: Path) -> None:
    forbidden = r"(inner|outer)HTML|insertAdjacentHTML|document\.(write|cookie)|eval\(|localStorage"
    assert re.search(forbidden, script.read_text()) is None


def test_api_reference_has_every_operation_and_no_broken_link(client: TestClient) -> None:
    page = client.get("/docs").text
    document = client.get("/openapi.json").json()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert f"<code>{method.upper()} {path}</code>" in page
            assert operation["operationId"] in ids
    for name, schema in document["components"]["schemas"].items():
        assert name in ids
        assert all(f"<code>{field}</code>" in page for field in schema.get("properties", ()))
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="/static/main.js">']
