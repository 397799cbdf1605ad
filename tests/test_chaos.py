"""A short, seeded run of the chaos that ``make chaos`` has at length."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_service_that_is_struck_loses_nothing(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "bench/chaos.py", "--database", database,
         "--faults", "12", "--seed", "5", "--workers", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    hits = re.search(r"(\d+) of them while a job ran", done.stdout)
    assert hits
    assert int(hits[1]) > 0
