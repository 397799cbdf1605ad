"""The time in each phase is computed from the events of a job; cards are named by memory."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli.job_display import phase_seconds, show_estimate
from plaudit.models import EventRead

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, second: float, kind: str, phase: str | None = None) -> EventRead:
    data = {} if phase is None else {"phase": phase}
    at = START + timedelta(seconds=second)
    return EventRead(id=number, type=kind, message="", data=data, attempt=1, at=at)


def test_phases_of_all_attempts_are_added_and_waiting_is_not() -> None:
    events = [
        event(1, 0, "claimed"),
        event(2, 1, "phase", "fetching"),
        event(3, 4, "phase", "training"),
        event(4, 5, "warning"),
        event(5, 14, "worker_lost"),
        event(6, 100, "claimed"),
        event(7, 101, "phase", "fetching"),
        event(8, 102.5, "phase", "training"),
        event(9, 110, "phase", "verifying"),
        event(10, 112, "succeeded"),
    ]
    assert phase_seconds(events) == {"fetching": 4.5, "training": 17.5, "verifying": 2.0}


def test_phase_that_has_not_ended_is_left_out() -> None:
    assert phase_seconds([event(1, 0, "claimed"), event(2, 1, "phase", "fetching")]) == {}


@pytest.mark.parametrize(
    ("total", "cards"),
    [
        (24 * 10**9, "24 GB, 48 GB, 80 GB, 141 GB"),
        (24 * 10**9 + 1, "48 GB, 80 GB, 141 GB"),
        (141 * 10**9, "141 GB"),
        (142 * 10**9, "none"),
    ],
)
def test_cards_that_have_the_memory_are_named(
    capsys: pytest.CaptureFixture[str], total: int, cards: str
) -> None:
    parts = dict.fromkeys(("weights", "optimizer", "activations", "overhead"), total // 4)
    memory = {f"{name}_bytes": value for name, value in parts.items()}
    memory |= {"total_bytes": total, "device_bytes": 16 << 30}
    preview: Any = SimpleNamespace(reports={"memory": memory})
    show_estimate(preview, as_json=False)
    fits = re.search(r"^fits +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert fits
    assert fits[1].strip() == cards
