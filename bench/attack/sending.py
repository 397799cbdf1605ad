"""Ways to send requests to a target."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx

from bench.attack.target import Target

#: Announced statuses of 500 and above: they tell the client when to retry, or the operator what to
#: do.
ANNOUNCED = {503, 507}


def connect(target: Target) -> socket.socket:
    """Open a connection without sending anything."""
    return socket.create_connection(("127.0.0.1", target.port), timeout=30)


def head(target: Target, method: str, path: str, tenant: str = "acme", **headers: str) -> bytes:
    """Return the head of a request with the tenant's key."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", f"Authorization: Bearer {target.keys[tenant]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def get(path: str, **headers: str) -> httpx.Request:
    """Return a GET for ``flood``."""
    return httpx.Request("GET", "http://attack" + path, headers=headers)


def post(path: str, body: str | bytes, kind: str = "application/json") -> httpx.Request:
    """Return a POST for ``flood``."""
    headers = {"Content-Type": kind}
    return httpx.Request("POST", "http://attack" + path, content=body, headers=headers)


def pairs(salt: str) -> str:
    """Return a small dataset; each salt gives another one."""
    rows = ({"prompt": f"p{i}{salt}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(20))
    return "".join(json.dumps(row) + "\n" for row in rows)


def upload(client: httpx.Client, salt: str) -> httpx.Response:
    """Upload a small dataset."""
    kind = {"Content-Type": "application/x-ndjson"}
    return client.post("/v1/datasets", content=pairs(salt), headers=kind)


def flood(
    target: Target, deadline: float, threads: int, requests: Iterator[httpx.Request]
) -> list[str]:
    """Send requests from several threads; report unannounced 5xx and missing responses."""
    problems: list[str] = []
    lock = threading.Lock()
    endless = itertools.cycle(requests)

    def work() -> None:
        with target.client() as client:
            while time.monotonic() < deadline:
                with lock:
                    request = next(endless)
                url = request.url.copy_with(host="127.0.0.1", port=target.port)
                again = client.build_request(
                    request.method, url, content=request.content,
                    headers={k: v for k, v in request.headers.items() if k.lower() != "host"},
                )  # fmt: skip
                try:
                    answer = client.send(again)
                except httpx.TimeoutException:
                    problems.append(f"no answer to {request.method} {str(request.url)[:80]}")
                except httpx.TransportError:
                    continue  # the service closed the connection: a rejection
                else:
                    if answer.status_code >= 500 and answer.status_code not in ANNOUNCED:
                        what = f"{request.method} {str(request.url)[:80]}"
                        problems.append(f"{answer.status_code} to {what}: {answer.text[:200]}")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return problems[:3]
