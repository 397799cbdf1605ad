"""The thread that starts the scorer of an embedded service survives a start that fails."""

from __future__ import annotations

import errno
import subprocess
import threading
from types import SimpleNamespace

import pytest

from app.core.settings import Settings
from app.scoring import keeper
from app.scoring.keeper import ScorerKeeper
from tests.services import wait_until


def test_scorer_is_started_again_after_a_start_that_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    def start(*_: object, **__: object) -> SimpleNamespace:
        started.append(None)
        if len(started) == 1:
            raise OSError(errno.EAGAIN, "no more processes")
        return SimpleNamespace(wait=lambda: 0, terminate=lambda: None)

    monkeypatch.setattr(keeper, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(subprocess, "Popen", start)
    scorer = ScorerKeeper(settings)

    def is_started_again() -> bool:
        scorer.want()  # as waiting requests do
        return len(started) > 1

    try:
        wait_until("a second start", is_started_again, 10)
    finally:
        scorer.stop()


def test_thread_is_started_again_after_the_machine_had_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ScorerKeeper, "_keep", lambda _: None)
    scorer = ScorerKeeper(settings)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            scorer.want()
    scorer.want()
    scorer.stop()
