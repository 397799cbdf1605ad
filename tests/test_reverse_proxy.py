"""The nginx configuration of docs/reverse-proxy.md, in a real nginx before a real service."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import serving
from tests.services import free_port, skip_or_fail, wait_until
from tests.world import pairs

PAGE = Path(__file__).parents[1] / "docs" / "reverse-proxy.md"
#: Of a body that takes a minute to send.
PIECES = 1200
JSONL = {"Content-Type": "application/x-ndjson"}


def configuration(directory: Path, port: int, service_port: int) -> str:
    """The documented server without TLS, on a free port, below a directory of the test."""
    block = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    text = re.sub(r"\n *ssl_certificate.*", "", block[1])
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    text = text.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{service_port};")
    assert f"127.0.0.1:{service_port}" in text
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nworker_processes 1;\n"
        f"pid {directory}/pid;\nerror_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
    )


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the service through nginx, with the first key."""
    if (nginx := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")) is None:
        skip_or_fail("needs nginx (apt install nginx-light)")
    directory = tmp_path_factory.mktemp("proxy")
    port = free_port()
    with serving(
        directory, "--no-worker", trusted_proxies="127.0.0.1", preflight_wait_seconds=0
    ) as (_, url):
        path = directory / "nginx.conf"
        path.write_text(configuration(directory, port, int(url.rpartition(":")[2])))
        process = subprocess.Popen([str(nginx), "-p", str(directory), "-c", str(path)])
        key = (directory / "api-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}", "Host": "plaudit.example.com"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=90
        ) as client:
            try:
                wait_until("nginx", lambda: _answers(client))
                yield client
            finally:
                process.terminate()
                process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


def test_upload_and_download_pass_through(proxy: httpx.Client) -> None:
    data = pairs(20_000)
    dataset = proxy.post("/v1/datasets", content=data, headers=JSONL).json()
    assert dataset["pair_count"] == 20_000
    content = proxy.get(f"/v1/datasets/{dataset['id']}/content", headers={"Range": "bytes=0-9"})
    assert (content.status_code, len(content.content)) == (206, 10)


def test_request_body_is_streamed_to_the_service(proxy: httpx.Client) -> None:
    """A refusal arrives before the body is complete: nothing waits for the whole of it."""

    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(PIECES):
            yield b"not json\n" * 2000
            sent += 1
            time.sleep(0.05)

    answer = proxy.post("/v1/datasets", content=body(), headers=JSONL)
    assert answer.status_code == 422
    assert sent < PIECES


def test_events_arrive_as_they_happen(proxy: httpx.Client) -> None:
    dataset = proxy.post("/v1/datasets", content=pairs(30), headers=JSONL).json()["id"]
    spec = {"base_model": "all-minilm-l6-v2", "train_dataset": dataset}
    job = proxy.post("/v1/jobs", json=spec).json()["id"]
    lines: list[str] = []

    def listen() -> None:
        headers = {"Accept": "text/event-stream"}
        with proxy.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as events:
            lines.extend(events.iter_lines())

    listener = threading.Thread(target=listen)
    listener.start()
    wait_until("the first event", lambda: "event: queued" in lines)
    proxy.post(f"/v1/jobs/{job}/cancel")
    listener.join(timeout=30)
    assert "event: cancel_asked" in lines


def test_audit_log_names_the_client_and_not_what_it_claims(proxy: httpx.Client) -> None:
    headers = {**JSONL, "X-Forwarded-For": "203.0.113.9"}
    dataset = proxy.post("/v1/datasets", content=pairs(25, "x"), headers=headers).json()["id"]
    record = next(r for r in proxy.get("/v1/audit").json()["data"] if r["object_id"] == dataset)
    assert record["client"] == "127.0.0.1"
