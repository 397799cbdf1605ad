"""A job kind that only the tests know: the directories of its handler and of its task."""

from __future__ import annotations

from pathlib import Path

HANDLERS = Path(__file__).parent / "handlers"
TASKS = Path(__file__).parent / "tasks"
