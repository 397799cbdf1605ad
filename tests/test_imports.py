"""The API, the Celery process and the supervisor never load torch."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def test_service_and_worker_leave_torch_unloaded() -> None:
    code = (
        "import sys, app.main, app.cli\n"
        "import worker.supervisor.celery_task, worker.supervisor.pool\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_opens_at_import() -> None:
    code = (
        "import socket, sqlite3, app.main, worker.supervisor.celery_task\n"
        "import threading; print(threading.active_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "1", done.stderr
