"""The attacks. Each is a function that runs against a target until a deadline.

An attack returns a sentence for each violation; an empty list means that the service passed.
Rejections are expected responses.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from bench.attack.sending import connect, flood, get, pairs, post
from bench.attack.target import Target

Attack = Callable[[Target, float, random.Random], list[str]]
ATTACKS: dict[str, Attack] = {}
MIB = 1 << 20
OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.json"
NAMES = ("name", "base_model", "train_dataset", "lora", "r", "training", "metadata[a]", "limit",
         "after", "wait", "priority", "events", "url", "scopes", "x")  # fmt: skip


def attack(function: Attack) -> Attack:
    """Register an attack under its name."""
    ATTACKS[function.__name__] = function
    return function


@attack
def endless_head(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Send request lines and headers that never end, without a key."""
    starts = [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n" * 10_000),
        (b"GET /?", b"[" * 65536),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 65536),
    ]
    for start, piece in _until(deadline, starts):
        with suppress(OSError), closing(connect(target)) as client:
            client.sendall(start)
            for _ in range(1000):
                client.sendall(piece)
    return []


@attack
def brackets_in_query(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Send query names that made a regular expression quadratic."""
    queries = ["[" * 30_000, "a[" * 15_000, "metadata[" + "a" * 30_000, "&".join("[" * 10_000)]
    return flood(target, deadline, 4, (get(f"/v1/jobs?{query}") for query in queries))


@attack
def large_bodies(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Send bodies of a megabyte that are expensive to validate."""
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
    posts = (post("/v1/jobs", json.dumps(body)[: MIB - 1]) for body in bodies)
    return flood(target, deadline, 4, posts)


@attack
def metadata_filters(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Send thousands of filters in one query."""
    paths = [
        "/v1/jobs?" + "&".join(f"metadata[k{i}]=v" for i in range(count))
        for count in (17, 1001, 1600)
    ]
    return flood(target, deadline, 4, (get(path) for path in paths))


@attack
def unfinished_requests(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Open hundreds of connections that never finish a request: the service must close them."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(target))) for _ in range(600)]
        for i, client in enumerate(clients):
            client.sendall((b"", b"GET /v1", b"GET / HTTP/1.1\r\nX: ")[i % 3])
        while time.monotonic() < deadline:
            time.sleep(0.2)
        with target.client(timeout=10) as client:
            status = client.get("/v1/jobs").status_code
    return [] if status == 200 else [f"another request got {status}"]


@attack
def metrics_flood(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Read /metrics with twenty clients as fast as possible."""
    return flood(target, deadline, 20, (get("/metrics"), get("/readyz")))


@attack
def wrong_keys(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Guess keys from one address: a valid key from the same address must still be accepted."""
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
def compressed_bombs(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Upload compressed files that are mostly overhead, or that unpack to 1,000 times the size."""
    size = 8 * MIB
    packers = (gzip.compress, bz2.compress, lzma.compress)
    bodies = [pack(b"") * (size // len(pack(b""))) for pack in packers]
    bodies += [
        bytes.fromhex("502a4d1800000000") * (size // 8),  # Zstandard: frames to skip
        gzip.compress(b" " * (8 * size)),
        gzip.compress(b"\n" * (8 * size)),
        b"PAR1" + bytes(1000) + b"PAR1",
        b"ARROW1\0\0" + bytes(1000),
    ]
    posts = (post("/v1/datasets?format=jsonl", body, "application/gzip") for body in bodies)
    return flood(target, deadline, 2, posts)


@attack
def hostile_rows(target: Target, deadline: float, _seed: random.Random) -> list[str]:
    """Upload datasets that are expensive to check: deep, wide, long and repetitive rows."""
    pair = {"prompt": "p", "chosen": "c", "rejected": "r"}
    bodies = [
        "[" * MIB,
        '{"a":' * 100_000,
        json.dumps({f"k{i}": i for i in range(50_000)}),
        json.dumps(pair | {"prompt": "\u0000" * 100_000}),
        json.dumps(pair | {"chosen": [{"role": "user", "content": "x"}] * 20_000}),
        "\n" * (4 * MIB),
        '"' * MIB,
        ",".join("h" for _ in range(200_000)) + "\n" + "," * MIB,
    ]
    kinds = ("application/x-ndjson", "application/json", "text/csv")
    posts = (post("/v1/datasets", body, kind) for body in bodies for kind in kinds)
    return flood(target, deadline, 2, posts)


@attack
def odd_ranges_and_tags(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Send Range, If-Range and If-None-Match in many forms."""
    with target.client() as client:
        answer = client.post(
            "/v1/datasets", content=pairs("ranges"), headers={"Content-Type": "text/csv"}
        )
        listed = client.get("/v1/datasets").json()["data"]
    path = f"/v1/datasets/{listed[0]['id']}/content" if listed else "/v1/datasets"
    values = ["bytes=" + ",".join(f"{i}-{i}" for i in range(2000)), "bytes=0-", "bytes=-1",
              "bytes=9-1", "bytes=" + "9" * 60, "x" * 5000, "*", '"' + "a" * 3000]  # fmt: skip
    requests = (
        get(path, **{seed.choice(("Range", "If-Range", "If-None-Match")): value})
        for value in values
    )
    problems = flood(target, deadline, 4, requests)
    return problems if answer.status_code < 500 else [*problems, "the upload failed"]


@attack
def random_mix(target: Target, deadline: float, seed: random.Random) -> list[str]:
    """Send seeded random methods, ids, queries, bodies and bytes to every route."""
    document = json.loads(OPENAPI.read_text())
    paths = [*document["paths"], "/", "/docs", "/static/../../etc/passwd", "/v1/%00"]

    def word() -> str:
        return seed.choice(
            ["", "x", "0", "-1", "é", "%00", "..", "a" * 200, "9" * 40, "[", "null", "true",
             "1e999", "job_" + "0" * 32, "ds_" + seed.randbytes(16).hex(), "all-minilm-l6-v2"]
        )  # fmt: skip

    def value(depth: int = 0) -> Any:
        kind = seed.randrange(7 if depth < 4 else 4)
        if kind < 3:
            return seed.choice([word(), seed.randrange(-5, 10**6), None])
        if kind == 3:
            return seed.choice([True, 1e300, -0.0])
        if kind == 4:
            return [value(depth + 1) for _ in range(seed.randrange(4))]
        return {seed.choice(NAMES): value(depth + 1) for _ in range(seed.randrange(5))}

    def requests() -> Iterator[httpx.Request]:
        while True:
            path = re.sub(r"\{\w+\}", lambda _: quote(word(), safe="%"), seed.choice(paths))
            query = "&".join(
                f"{seed.choice(NAMES)}={quote(word())}" for _ in range(seed.randrange(4))
            )
            is_json = seed.random() < 0.7
            body = json.dumps(value()).encode() if is_json else seed.randbytes(seed.randrange(2000))
            yield httpx.Request(
                seed.choice(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "FOO")),
                f"http://attack{path}?{query}",
                content=body,
                headers={"Content-Type": seed.choice(("application/json", "text/csv", "x"))},
            )

    return flood(target, deadline, 4, requests())


def warm_up(target: Target) -> None:
    """Make the service import its modules and open its connections and threads."""
    paths = ("/v1/jobs", "/v1/datasets", "/metrics", "/readyz", "/openapi.json", "/")
    uploads = (post("/v1/datasets", pairs(f"{i}"), "text/csv") for i in range(8))
    requests = [*(get(path) for path in paths), *uploads]
    flood(target, time.monotonic() + 5, 40, iter(requests))


def _until(deadline: float, items: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for item in itertools.cycle(items):
        if time.monotonic() >= deadline:
            return
        yield item
