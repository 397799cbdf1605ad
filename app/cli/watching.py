"""Follows a job until it ends: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from app.cli.client import PATIENCE_SECONDS, Api, Unreachable
from app.cli.endings import Ending
from app.cli.output import notes, plain

WAIT_SECONDS = 20.0
LINE_EVERY_SECONDS = 10.0
ENDINGS = {
    "succeeded": Ending.SUCCEEDED,
    "failed": Ending.FAILED,
    "cancelled": Ending.CANCELLED,
    "paused": Ending.PAUSED,
}
SHOWN_METRICS = {
    "train/loss": "loss",
    "eval_before/accuracy": "accuracy before",
    "eval/accuracy": "accuracy",
}


def watch(api: Api, job_id: str) -> tuple[Any, Ending]:
    """The job once it ended or paused, and how; shows on stderr what happens until then."""
    with _screen() as screen:
        etag: str | None = None
        after = 0
        while True:
            job, etag = _next_state(api, job_id, etag)
            if job is None:
                continue
            # After the job was read: what it ended with is among them.
            for event in _events(api, job_id, after):
                after = event["id"]
                screen.tell(event)
            screen.show(job, _newest(api, job))
            if job["status"] in ENDINGS:
                return job, ENDINGS[job["status"]]


def newest_metrics(api: Api, job_id: str, from_step: int = 0) -> dict[str, float]:
    """The last value of each metric that was logged."""
    answer = api.get(
        f"/v1/jobs/{job_id}/metrics", keys=",".join(SHOWN_METRICS), from_step=from_step
    )
    found = {}
    for name, column in answer["columns"].items():
        values = [value for value in column if value is not None]
        if name != "step" and values:
            found[name] = values[-1]
    return found


def _next_state(api: Api, job_id: str, etag: str | None) -> tuple[Any, str]:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return api.job_when_changed(job_id, etag, WAIT_SECONDS)
        except Unreachable as error:
            if etag is None or time.monotonic() > give_up_at:
                raise
            api.tell_wait(error.message)
            time.sleep(1)


def _events(api: Api, job_id: str, after: int) -> list[Any]:
    try:
        events: list[Any] = api.get(f"/v1/jobs/{job_id}/events", after=after, limit=1000)["data"]
    except Unreachable:
        return []  # they come with the next state
    return events


def _newest(api: Api, job: Any) -> dict[str, float]:
    step = job["progress"]["step"]
    if step is None:
        return {}
    try:
        return newest_metrics(api, job["id"], max(step - 10, 0))
    except Unreachable:
        return {}


def _screen() -> _Lines:
    return _Bar() if notes.is_terminal else _Lines()


class _Lines:
    """One line whenever there is something to say."""

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def tell(self, event: Any) -> None:
        """Something happened."""
        at, message = event["at"][11:19], event["message"] or event["type"]
        notes.print(Text.assemble((f"{at}  ", "dim"), plain(message)))

    def show(self, job: Any, metrics: dict[str, float]) -> None:
        """How far the job is now."""
        self._metrics |= metrics
        now = time.monotonic()
        if now - self._said_at > LINE_EVERY_SECONDS or job["status"] in ENDINGS:
            self._said_at = now
            steps = "{step} of {total_steps}".format_map(job["progress"])
            position = "" if job["progress"]["step"] is None else f"step {steps}"
            parts = (_phase(job), position, _figures(self._metrics), _time_left(job))
            line = "          " + "  ".join(part for part in parts if part)
            notes.print(plain(line))


class _Bar(_Lines):
    """A bar that moves, with events scrolling by above it."""

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

    def show(self, job: Any, metrics: dict[str, float]) -> None:
        """How far the job is now."""
        self._metrics |= metrics
        self._progress.update(
            self._task,
            description=_phase(job),
            completed=job["progress"]["step"] or 0,
            total=job["progress"]["total_steps"],
            figures=_figures(self._metrics),
            left=_time_left(job),
        )


def _phase(job: Any) -> str:
    status: str = job["status"]
    return job["phase"] or status if status == "running" else status


def _figures(metrics: dict[str, float]) -> str:
    return "  ".join(
        f"{label} {metrics[name]:.3f}" for name, label in SHOWN_METRICS.items() if name in metrics
    )


def _time_left(job: Any) -> str:
    seconds = job["progress"]["seconds_left"]
    if not seconds or job["status"] != "running":
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + (
        f"{minutes} min left" if minutes else f"{seconds} s left"
    )
