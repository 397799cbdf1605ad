"""The attacks: each one a function that runs against a target until a deadline.

An attack returns what it saw that must not happen, as sentences; an empty list means that the
service held. Answers that refuse are what the attacks expect.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import httpx

from bench.attack.target import Target

#: Statuses of 500 and above that are announced: they tell the client when to come back or what
#: the operator has to do.
ANNOUNCED = {503, 507}
Attack = Callable[[Target, float, random.Random], list[str]]
ATTACKS: dict[str, Attack] = {}
MIB = 1 << 20


def attack(function: Attack) -> Attack:
    """Register an attack under its name."""
    ATTACKS[function.__name__] = function
    return function


@attack
def endless_head(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Request lines and headers that never end, without a key."""
    starts = [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n" * 10_000),
        (b"GET /?", b"[" * 65536),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 65536),
    ]
    for start, piece in _until(deadline, starts):
        with suppress(OSError), closing(_connect(target)) as client:
            client.sendall(start)
            for _ in range(1000):
                client.sendall(piece)
    return []


@attack
def brackets_in_query(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Query names that made a regular expression quadratic."""
    queries = ["[" * 30_000, "a[" * 15_000, "metadata[" + "a" * 30_000, "&".join("[" * 10_000)]
    return _flood(target, deadline, 4, (_get(f"/v1/jobs?{query}") for query in queries))


@attack
def large_bodies(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Bodies of a megabyte that are expensive to validate."""
    dataset = "ds_" + "0" * 32
    base = {"base_model": "all-minilm-l6-v2", "train_dataset": dataset}
    bodies = [
        {**base, "lora": {"target_modules": ["-"] * 190_000}},
        {**base, "metadata": {f"{i} ": "x" for i in range(65_000)}},
        {**base, **{f"unknown{i}": i for i in range(50_000)}},
        {**base, "name": "x" * 900_000},
        {**base, "training": {"x" * 500_000: 1}},
        json.loads("[" * 30 + "1" + "]" * 30),
    ]
    posts = (_post("/v1/jobs", json.dumps(body)[: MIB - 1]) for body in bodies)
    return _flood(target, deadline, 4, posts)


@attack
def metadata_filters(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Thousands of filters in one query."""
    paths = [
        "/v1/jobs?" + "&".join(f"metadata[k{i}]=v" for i in range(count))
        for count in (17, 1001, 1600)
    ]
    return _flood(target, deadline, 4, (_get(path) for path in paths))


@attack
def trickling_uploads(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Uploads that send a byte now and then must not block the uploads of another tenant."""
    head = (
        "POST /v1/datasets HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
        f"Authorization: Bearer {target.keys['other']}\r\nContent-Length: 1000000\r\n\r\n"
    ).encode()
    problems = []
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(_connect(target))) for _ in range(40)]
        for client in slow:
            client.sendall(head)
        with target.client(timeout=30) as client:
            for number in itertools.count():
                if time.monotonic() >= deadline:
                    break
                answer = client.post(
                    "/v1/datasets", content=_pairs(f"{time.time()}{number}"),
                    headers={"Content-Type": "application/x-ndjson"},
                )  # fmt: skip
                if answer.status_code not in (200, 201):
                    problems.append(f"another tenant's upload got {answer.status_code}")
                for other in slow:
                    with suppress(OSError):
                        other.sendall(b" ")
                time.sleep(0.5)
    return problems[:3]


@attack
def unfinished_requests(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Hundreds of connections that never finish a request must go away by themselves."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(_connect(target))) for _ in range(600)]
        for i, client in enumerate(clients):
            client.sendall((b"", b"GET /v1", b"GET / HTTP/1.1\r\nX: ")[i % 3])
        while time.monotonic() < deadline:
            time.sleep(0.2)
        with target.client(timeout=10) as client:
            status = client.get("/v1/jobs").status_code
    return [] if status == 200 else [f"a request beside them got {status}"]


@attack
def metrics_flood(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Twenty clients that read /metrics as fast as they can."""
    return _flood(target, deadline, 20, (_get("/metrics"), _get("/readyz")))


@attack
def wrong_keys(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Guesses from one address must not refuse a valid key behind the same address."""
    problems = []
    with httpx.Client(base_url=target.url) as guesser, target.client() as client:
        while time.monotonic() < deadline:
            token = "plk_" + seed.randbytes(16).hex() + "_" + "A" * 43 + "_" + "B" * 6
            headers = {
                "Authorization": f"Bearer {token}",
                "X-Forwarded-For": f"10.0.0.{seed.randrange(256)}",
            }
            status = guesser.get("/v1/jobs", headers=headers).status_code
            if status not in (401, 429):
                problems.append(f"a wrong key got {status}")
            if (status := client.get("/v1/jobs").status_code) != 200:
                problems.append(f"a valid key behind the same address got {status}")
    return problems[:3]


@attack
def empty_gzip_members(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Compressed uploads that are all overhead, or that grow a thousandfold."""
    member = gzip.compress(b"", mtime=0)
    bodies = [
        member * (8 * MIB // len(member)),
        gzip.compress(b" " * (64 * MIB), mtime=0),
        gzip.compress(b"\n" * (64 * MIB), mtime=0),
    ]
    posts = (_post("/v1/datasets?format=jsonl", body, "application/gzip") for body in bodies)
    return _flood(target, deadline, 2, posts)


@attack
def odd_ranges_and_tags(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Range, If-Range and If-None-Match in many forms."""
    with target.client() as client:
        answer = client.post(
            "/v1/datasets", content=_pairs("ranges"), headers={"Content-Type": "text/csv"}
        )
        listed = client.get("/v1/datasets").json()["data"]
    path = f"/v1/datasets/{listed[0]['id']}/content" if listed else "/v1/datasets"
    values = ["bytes=" + ",".join(f"{i}-{i}" for i in range(2000)), "bytes=0-", "bytes=-1",
              "bytes=9-1", "bytes=" + "9" * 60, "x" * 5000, "*", '"' + "a" * 3000]  # fmt: skip
    requests = (
        _get(path, **{seed.choice(("Range", "If-Range", "If-None-Match")): value})
        for value in values
    )
    problems = _flood(target, deadline, 4, requests)
    return problems if answer.status_code < 500 else [*problems, "the upload failed"]


@attack
def random_mix(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Seeded nonsense: methods, paths, bodies and bytes."""
    paths = ["/v1/jobs", "/v1/datasets", "/v1/jobs/job_" + "0" * 32, "/v1/adapters", "/v1/queue",
             "/v1/webhooks", "/v1/audit", "/", "/docs", "/static/../../etc/passwd",
             "/v1/%00"]  # fmt: skip

    def requests() -> Iterator[httpx.Request]:
        while True:
            path = seed.choice(paths) + seed.choice(("", "?limit=x", "?after=" + "a" * 200, "/x"))
            yield httpx.Request(
                seed.choice(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "FOO")),
                target.url + path,
                content=seed.randbytes(seed.randrange(2000)),
                headers={"Content-Type": seed.choice(("application/json", "text/csv", "x"))},
            )

    return _flood(target, deadline, 4, requests())


def warm_up(target: Target) -> None:
    """Have the service load its modules and open its connections and threads."""
    paths = ("/v1/jobs", "/v1/datasets", "/metrics", "/readyz", "/openapi.json", "/")
    uploads = (_post("/v1/datasets", _pairs(f"{i}"), "text/csv") for i in range(8))
    requests = [*(_get(path) for path in paths), *uploads]
    _flood(target, time.monotonic() + 5, 40, iter(requests))


def _connect(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), timeout=30)


def _until(deadline: float, items: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for item in itertools.cycle(items):
        if time.monotonic() >= deadline:
            return
        yield item


def _get(path: str, **headers: str) -> httpx.Request:
    return httpx.Request("GET", "http://attack" + path, headers=headers)


def _post(path: str, body: str | bytes, kind: str = "application/json") -> httpx.Request:
    headers = {"Content-Type": kind}
    return httpx.Request("POST", "http://attack" + path, content=body, headers=headers)


def _pairs(salt: str) -> str:
    rows = ({"prompt": f"p{i}{salt}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(20))
    return "".join(json.dumps(row) + "\n" for row in rows)


def _flood(
    target: Target, deadline: float, threads: int, requests: Iterator[httpx.Request]
) -> list[str]:
    """Send the requests round and round from some threads; report unannounced 5xx and silence."""
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
                    continue  # the service closed the connection: a refusal
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
