"""The time in each phase is computed from the events of a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.cli.job_display import phase_seconds
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
