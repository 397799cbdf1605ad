"""Programs that run in separate processes next to the monitor."""

from __future__ import annotations

import random
import time
from multiprocessing.queues import Queue

from bench.attack.catalogue import ATTACKS
from bench.attack.target import Target


def strike(results: Queue[list[str]], name: str, seconds: float, seed: int, target: Target) -> None:
    results.put(ATTACKS[name](target, time.monotonic() + seconds, random.Random(f"{seed}{name}")))


def burn(results: Queue[list[str]], _name: str, seconds: float, _seed: int) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sum(range(10_000))
    results.put([])
