"""A short run of ``make attack``; the latencies on this machine are not checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.attack.catalogue import ATTACKS, NEEDS_REDIS

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_service_holds_under_attack(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.attack", "--database", database,
         "--seconds", "12", "--seed", "5", "--untimed"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    expected = len(ATTACKS) - (len(NEEDS_REDIS) if database == "sqlite" else 0)
    assert done.stdout.count("  held\n") == expected
