"""Attacks of one tenant on shared resources: places, threads, sockets and the broker."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.attack.attacks import attack
from bench.attack.sending import connect, flood, get, head, upload
from bench.attack.target import Target

#: Number of event streams that are open, and number that are opened, at the same time.
STREAMS, WAVE = 500, 50
#: Seconds after which another tenant's message counts as starved by the silent receivers.
MESSAGE_SECONDS = 30.0


@attack
def trickling_uploads(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Send uploads byte by byte: they must not block the uploads of another tenant."""
    kind = {"Content-Type": "application/x-ndjson", "Content-Length": "1000000"}
    start = head(target, "POST", "/v1/datasets", "other", **kind)
    problems = []
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connect(target))) for _ in range(40)]
        for client in slow:
            client.sendall(start)
        with target.client(timeout=30) as client:
            while time.monotonic() < deadline:
                answer = upload(client, f"{time.time()}")
                if answer.status_code not in (200, 201):
                    problems.append(f"another tenant's upload got {answer.status_code}")
                for other in slow:
                    with suppress(OSError):
                        other.sendall(b" ")
                time.sleep(0.5)
    return problems[:3]


@attack
def event_streams(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Open hundreds of event streams, read a few bytes and leave them open."""
    with target.client() as client:
        dataset = upload(client, "streams").json()["id"]
        spec = {"base_model": "all-minilm-l6-v2", "train_dataset": dataset}
        answer = client.post("/v1/jobs", json=spec)
        if answer.status_code != 201:
            return [f"a job got {answer.status_code}: {answer.text[:200]}"]
        job = answer.json()["id"]
        start = head(target, "GET", f"/v1/jobs/{job}/events", Accept="text/event-stream")
        while time.monotonic() < deadline:
            with ExitStack() as stack:
                for _ in range(STREAMS // WAVE):
                    wave = [stack.enter_context(closing(connect(target))) for _ in range(WAVE)]
                    for each in wave:
                        each.sendall(start)
                    for each in wave:
                        with suppress(OSError):
                            each.recv(4096)
        client.post(f"/v1/jobs/{job}/cancel")
        client.delete(f"/v1/jobs/{job}")
        client.delete(f"/v1/datasets/{dataset}")
    return []


@attack
def silent_receivers(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Use webhook receivers that never respond: they must not delay another tenant's messages."""
    received = threading.Semaphore(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()
            received.release()

        def log_message(self, *_: object) -> None: ...

    problems = []
    with ExitStack() as stack:
        silent = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=512)))
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        bad, good = (
            stack.enter_context(target.client()),
            stack.enter_context(target.client("other")),
        )
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hooks = [bad.post("/v1/webhooks", json={"url": url}).json()["id"] for _ in range(20)]
        hook = good.post(
            "/v1/webhooks", json={"url": f"http://127.0.0.1:{server.server_address[1]}/"}
        ).json()["id"]
        while time.monotonic() < deadline and not problems:
            for each in hooks:
                bad.post(f"/v1/webhooks/{each}/test")
            good.post(f"/v1/webhooks/{hook}/test")
            if not received.acquire(timeout=MESSAGE_SECONDS):
                problems.append(f"another tenant's message took over {MESSAGE_SECONDS:g} s")
        for each in hooks:
            bad.delete(f"/v1/webhooks/{each}")
        good.delete(f"/v1/webhooks/{hook}")
    return problems


@attack
def frozen_redis(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Freeze Redis: the service must still respond."""
    assert target.redis_pid is not None
    os.kill(target.redis_pid, signal.SIGSTOP)
    try:
        return flood(target, deadline, 4, iter([get("/v1/jobs"), get("/v1/queue"), get("/readyz")]))
    finally:
        os.kill(target.redis_pid, signal.SIGCONT)


@attack
def reports_by_readers(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Use a read-only key: it must not start inspections."""
    with target.client() as client:
        dataset = upload(client, "reports").json()["id"]
        client.headers["Authorization"] = f"Bearer {target.read_only_key}"
        path = f"/v1/datasets/{dataset}/report?base_model=all-minilm-l6-v2&max_length="
        number = 8
        while time.monotonic() < deadline:
            number += 1
            status = client.get(f"{path}{number}").status_code
            if status not in (403, 429):
                return [f"a report for a read-only key got {status}"]
    return []
