"""Shows the progress of a job on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from plaudit.models import JobItem, JobRead

LINE_EVERY_SECONDS = 10.0


class ProgressLine:
    """Rewrites one line on a terminal. Elsewhere prints a line when the status or phase changes,
    and at least every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._shown = ""
        self._state = ""
        self._shown_at = 0.0

    def __call__(self, job: JobRead) -> None:
        """Show this state of the job."""
        line, state = describe(job), f"{job.status} {job.phase}"
        now = time.monotonic()
        if self._is_terminal:
            self._stream.write(f"\r{line:<{len(self._shown)}}")
        elif state != self._state or now - self._shown_at >= LINE_EVERY_SECONDS:
            self._stream.write(f"{line}\n")
            self._shown_at = now
        self._shown, self._state = line, state
        self._stream.flush()

    def close(self) -> None:
        """End the line on a terminal, so that the last state stays visible."""
        if self._is_terminal and self._shown:
            self._stream.write("\n")
            self._stream.flush()


def describe(job: JobItem | JobRead) -> str:
    """Return one line: ``job_…  running, training  step 30 of 53  about 12 s left``."""
    state = f"{job.status}, {job.phase}" if job.status == "running" and job.phase else job.status
    parts = [job.id, state]
    progress = job.progress
    if progress.step is not None:
        parts.append(f"step {progress.step} of {progress.total_steps}")
    if progress.seconds_left and job.status == "running":
        parts.append(f"about {round(progress.seconds_left)} s left")
    return "  ".join(parts)
