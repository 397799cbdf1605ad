"""Collects a trainer's messages and log output and writes them in batches."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.domain.progress import Message, Noted, PhaseChanged, Reported, RowsDone, Stepped
from app.job_queue import worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import Progress
from worker.supervisor.trainer_process import TrainerProcess

LOG_PIECE_BYTES = 64 << 10
#: Maximum log output that is stored for one attempt.
LOG_LIMIT_BYTES = 50 << 20
#: Seconds between two writes.
WRITE_SECONDS = 0.5


class MessageBuffer:
    """The messages of one attempt that are not written yet."""

    def __init__(
        self,
        context: WriteContext,
        retry: Callable[[Callable[[], object]], object],
    ) -> None:
        """``retry`` calls a function until the database answers."""
        self._context, self._retry = context, retry
        self._steps: list[Stepped] = []
        self._notes: list[Noted] = []
        self._reports: list[Reported] = []
        self._phase: str | None = None
        self._rows: RowsDone | None = None
        self._log_seq = self._logged = 0
        self._written_at = 0.0

    def add(self, message: Message) -> None:
        """Keep a message until the next ``flush``."""
        match message:
            case Stepped():
                self._steps.append(message)
            case Noted():
                self._notes.append(message)
            case Reported():
                self._reports.append(message)
            case RowsDone():
                self._rows = message
            case PhaseChanged():
                self._phase, self._rows = message.phase, None

    def flush(self, child: TrainerProcess, *, force: bool = False) -> None:
        """Write the messages and the log output, at most twice a second unless forced."""
        if not force and time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        if self._steps or self._notes or self._reports or self._phase or self._rows:
            progress = Progress(
                self._phase, self._steps, self._notes, self._reports, rows=self._rows
            )
            self._steps, self._notes, self._reports = [], [], []
            self._phase = self._rows = None
            self._retry(lambda: worker_api.record_progress(self._context, progress))
        while (text := child.take_log(LOG_PIECE_BYTES)) and self._logged < LOG_LIMIT_BYTES:
            self._write_log(text)

    def _write_log(self, text: str) -> None:
        self._logged += len(text)
        if self._logged >= LOG_LIMIT_BYTES:
            text = f"\n[the log ends here: this attempt wrote more than {LOG_LIMIT_BYTES} bytes]\n"
        seq, self._log_seq = self._log_seq, self._log_seq + 1
        self._retry(lambda: worker_api.record_log(self._context, seq, text))
