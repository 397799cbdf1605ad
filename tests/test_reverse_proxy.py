"""The nginx configurations of docs/reverse-proxy.md and of Compose, in a real nginx.

The page's configuration runs without TLS, that of Compose with a certificate of the test.
"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.core.settings import Settings
from tests.cli.conftest import serving
from tests.services import free_port, skip_or_fail, wait_until
from tests.world import pairs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reverse-proxy.md"
COMPOSED = ROOT / "deploy" / "nginx.conf"
#: Differences between both configurations.
DIFFERENCES = {
    "server 127.0.0.1:8000;": "server api:8000;",
    "listen 443 ssl;": "listen 8443 ssl;",
    "server_name plaudit.example.com;": "server_name _;",
    "/etc/ssl/plaudit.": "/etc/nginx/tls/plaudit.",
}
#: Rate at which a body takes a minute to send.
PIECES = 1200
JSONL = {"Content-Type": "application/x-ndjson"}


def page_block() -> str:
    """The configuration of the page."""
    block = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def configuration(which: str, directory: Path, port: int, service_port: int) -> str:
    """A documented server on a free port, below a directory of the test."""
    text = page_block()
    if which == "page":
        text = re.sub(r"\n *ssl_certificate.*", "", text)
        text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
        text = text.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{service_port};")
    else:
        text = COMPOSED.read_text().replace("/etc/nginx/tls", str(directory))
        text = text.replace("listen 8443 ssl;", f"listen 127.0.0.1:{port} ssl;")
        text = text.replace("server api:8000;", f"server 127.0.0.1:{service_port};")
    assert f"127.0.0.1:{service_port}" in text
    assert f"127.0.0.1:{port}" in text
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nworker_processes 1;\n"
        f"pid {directory}/pid;\nerror_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
    )


def make_certificate(directory: Path) -> Path:
    """A certificate for this machine, as plaudit.pem and plaudit.key; the path of the former."""
    if shutil.which("openssl") is None:
        skip_or_fail("needs openssl (apt install openssl)")
    path = directory / "plaudit.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=plaudit", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(directory / "plaudit.key"), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module", params=["page", "compose"])
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the service through nginx, with the first key."""
    if (nginx := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")) is None:
        skip_or_fail("needs nginx (apt install nginx-light)")
    directory = tmp_path_factory.mktemp("proxy")
    port = free_port()
    url, verify = f"http://127.0.0.1:{port}", ssl.create_default_context()
    if request.param == "compose":
        url = url.replace("http:", "https:")
        verify = ssl.create_default_context(cafile=make_certificate(directory))
    with serving(
        directory, "--no-worker", trusted_proxies="127.0.0.1", preflight_wait_seconds=0
    ) as (_, service_url):
        path = directory / "nginx.conf"
        service_port = int(service_url.rpartition(":")[2])
        path.write_text(configuration(request.param, directory, port, service_port))
        command = [str(nginx), "-p", str(directory), "-c", str(path)]
        subprocess.run([*command, "-t"], check=True)
        process = subprocess.Popen(command)
        key = (directory / "api-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}", "Host": "plaudit.example.com"}
        with httpx.Client(base_url=url, headers=headers, timeout=90, verify=verify) as client:
            try:
                wait_until("nginx", lambda: _answers(client))
                yield client
            finally:
                process.terminate()
                process.wait()


def test_compose_runs_the_configuration_of_the_page() -> None:
    text = page_block()
    for written, composed in DIFFERENCES.items():
        assert written in text
        text = text.replace(written, composed)
    assert COMPOSED.read_text().partition("\n\n")[2] == text


def test_proxies_wait_for_a_scoring_request_that_is_held() -> None:
    seconds = re.findall(r"(?:proxy_read|response_header)_timeout (\d+)s", PAGE.read_text())
    held = Settings.model_fields["scoring_hold_seconds"].default
    assert len(seconds) == 2
    assert all(int(found) >= held + 60 for found in seconds)


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
    """An error arrives before the body is complete: nothing waits for the complete body."""

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
