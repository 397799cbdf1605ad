"""Embedded mode: run one scorer next to the API; the first request that needs it starts it."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import structlog

from app.core.backoff import exponential_delays
from app.core.child_process import start_module
from app.core.scoring_settings import ScoringSettings
from app.core.settings import Settings

log = structlog.get_logger()

RESTART_SECONDS = 0.2
RESTART_MAX_SECONDS = 10.0
#: After this runtime, the death of a scorer is not a failed start.
STEADY_SECONDS = 30.0
STOP_SECONDS = 20.0
_SCORER_FIELDS = [name for name in ScoringSettings.model_fields if name.startswith("scorer_")]


class ScorerKeeper:
    """Starts ``python -m worker.scorer`` on request and restarts it when it dies.

    The scorer exits after an idle time. The kernel ends it when the thread that started it ends, so
    a single thread starts all scorers.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = os.environ | _environment(settings)
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Request a running scorer; return immediately."""
        self._wanted.set()
        with self._guard:
            if self._thread is None and not self._stopping.is_set():
                thread = threading.Thread(target=self._keep, name="scorer-keeper", daemon=True)
                thread.start()  # may fail; the next call tries again
                self._thread = thread

    def stop(self) -> None:
        """End the scorer; kill it if it takes too long."""
        self._stopping.set()
        self._wanted.set()
        with self._guard:
            thread = self._thread
            if self._process is not None:
                self._process.terminate()
        if thread is None:
            return
        thread.join(timeout=STOP_SECONDS)
        if thread.is_alive() and self._process is not None:
            self._process.kill()
            thread.join()

    def _keep(self) -> None:
        delays = exponential_delays(base=RESTART_SECONDS, maximum=RESTART_MAX_SECONDS)
        while True:
            self._wanted.wait()
            with self._guard:
                if self._stopping.is_set():
                    return
                self._wanted.clear()
                self._process = process = start_module("worker.scorer", self._environment)
            started_at = time.monotonic()
            status = process.wait() if process else None
            if self._stopping.is_set():
                return
            if status == 0:  # was idle; waiting requests call ``want`` again
                self._wanted.clear()
                continue
            if time.monotonic() - started_at > STEADY_SECONDS:
                delays = exponential_delays(base=RESTART_SECONDS, maximum=RESTART_MAX_SECONDS)
            delay = next(delays)
            log.error("scorer_died", status=status, restart_seconds=delay)
            self._stopping.wait(delay)


def _environment(settings: Settings) -> dict[str, str]:
    """Return the settings of this process that the scorer must share."""
    names = ["data_dir", "base_models", "queue", "hub_endpoint", *_SCORER_FIELDS]
    values = {name: getattr(settings, name) for name in names}
    values["data_dir"] = settings.data_dir.absolute()
    values["database_url"] = settings.database
    for name in ("scorer_token", "hub_token"):
        secret = getattr(settings, name)
        values[name] = secret and secret.get_secret_value()
    return {
        f"PLAUDIT_{name.upper()}": str(value) for name, value in values.items() if value is not None
    }
