"""Follows a job or an evaluation until it ends: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from app.cli.exit_codes import ExitCode
from app.cli.output import notes, plain, time_span
from plaudit import ConnectionFailedError, Job, Plaudit, ServerError
from plaudit.models import EvaluationRead, EventRead

LINE_EVERY_SECONDS = 10.0
EXIT_CODES = {
    "succeeded": ExitCode.SUCCEEDED,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
    "paused": ExitCode.PAUSED,
}
SHOWN_METRICS = {
    "train/loss": "loss",
    "eval_before/accuracy": "accuracy before",
    "eval/accuracy": "accuracy",
    "eval/left_out": "left out",
}


def watch(client: Plaudit, job_id: str) -> tuple[Job, ExitCode]:
    """Follow the job until it has ended or is paused; return it with the exit code for its status.

    Events and progress are shown on stderr. Reconnects while the service cannot be reached, up to
    ``RETRIES.outage_seconds`` of ``app.cli.client``.
    """
    with _screen() as screen:
        after = 0

        def look(job: Job) -> None:
            nonlocal after
            try:
                # Read after the job, so that the last events of a job that has ended are shown.
                for event in job.events(after=after, follow=False):
                    after = event.id
                    screen.show_event(event)
                metrics = _newest(client, job)
            except (ConnectionFailedError, ServerError):
                metrics = {}  # shown with the next state
            screen.show(job, metrics)

        job = client.jobs.wait(job_id, progress=look)
        return job, EXIT_CODES[job.status]


def watch_evaluation(client: Plaudit, evaluation_id: str) -> tuple[EvaluationRead, ExitCode]:
    """Follow an evaluation until it has ended, as ``watch`` follows a job."""
    with _screen() as screen:
        after = 0

        def look(found: EvaluationRead) -> None:
            nonlocal after
            with suppress(ConnectionFailedError, ServerError):  # shown with the next state
                for event in client.evaluations.events(found.id, after=after, follow=False):
                    after = event.id
                    screen.show_event(event)
            screen.show(found, {})

        found = client.evaluations.wait(evaluation_id, progress=look)
        return found, EXIT_CODES[found.status]


def newest_metrics(client: Plaudit, job_id: str, from_step: int = 0) -> dict[str, float]:
    """Return the last value of each metric in ``SHOWN_METRICS``."""
    keys = ",".join(SHOWN_METRICS)
    return client.jobs.metrics(job_id, keys=keys, from_step=from_step).latest()


def _newest(client: Plaudit, job: Job) -> dict[str, float]:
    step = job.progress.step
    return {} if step is None else newest_metrics(client, job.id, max(step - 10, 0))


def _screen() -> _Lines:
    return _Bar() if notes.is_terminal else _Lines()


class _Lines:
    """Prints one line per event, and a line with the progress every ten seconds."""

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self._shown_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def show_event(self, event: EventRead) -> None:
        """Print an event."""
        at = f"{event.at:%H:%M:%S}  "
        notes.print(Text.assemble((at, "dim"), plain(event.message or event.type)))

    def show(self, job: Job | EvaluationRead, metrics: dict[str, float]) -> None:
        """Print the progress of the job, at most every ten seconds."""
        self._metrics |= metrics
        now = time.monotonic()
        if now - self._shown_at > LINE_EVERY_SECONDS or job.status in EXIT_CODES:
            self._shown_at = now
            done, total = _position(job)
            unit = "step" if job.progress.rows_total is None else "row"
            if isinstance(job, EvaluationRead):
                unit = "reply"
            parts = (
                _phase(job),
                "" if done is None else f"{unit} {done} of {total}",
                _figures(self._metrics),
                _time_left(job),
            )
            line = "          " + "  ".join(part for part in parts if part)
            notes.print(plain(line))


class _Bar(_Lines):
    """Shows a progress bar below the events."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[left]}", style="dim"),
            console=notes,
            refresh_per_second=4,
        )
        self._task: TaskID = self._progress.add_task("queued", total=None, figures="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, job: Job | EvaluationRead, metrics: dict[str, float]) -> None:
        """Update the progress bar."""
        self._metrics |= metrics
        done, total = _position(job)
        self._progress.update(
            self._task,
            description=_phase(job),
            completed=done or 0,
            total=total,
            figures=_figures(self._metrics),
            left=_time_left(job),
        )


def _position(job: Job | EvaluationRead) -> tuple[int | None, int | None]:
    """Return the number of tokenised rows, or of finished steps, and their total."""
    progress = job.progress
    if progress.rows_total is not None:
        return progress.rows_done, progress.rows_total
    return progress.step, progress.total_steps


def _phase(job: Job | EvaluationRead) -> str:
    return job.phase or job.status if job.status == "running" else job.status


def _figures(metrics: dict[str, float]) -> str:
    return "  ".join(
        f"{label} {metrics[name]:.3f}" for name, label in SHOWN_METRICS.items() if name in metrics
    )


def _time_left(job: Job | EvaluationRead) -> str:
    seconds = job.progress.seconds_left
    return f"{time_span(seconds)} left" if seconds and job.status == "running" else ""
