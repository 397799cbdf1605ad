"""Copies the metrics of jobs to an experiment tracker, from the client's machine.

>>> from plaudit.trackers import mirror, open_tracker
>>> with open_tracker("tensorboard", job, "runs") as tracker:
...     mirror(client, job.id, tracker)

The service never sees the credentials of the tracker.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from plaudit.errors import DirectoryError, MissingDependencyError
from plaudit.models import JobRead

if TYPE_CHECKING:
    from plaudit._sync.client import Plaudit

TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "mlflow", "wandb", "trackio")
POLL_SECONDS = 5.0


class Tracker(AbstractContextManager["Tracker"], Protocol):
    """A run of an experiment tracker. A context manager: leaving the block finishes the run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step. Steps must be in ascending order."""

    def finish(self, *, is_success: bool) -> None:
        """Finish the run as succeeded or failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(is_success=error is None)


def open_tracker(name: TrackerName, job: JobRead, target: str | None = None) -> Tracker:
    """Start a run for a job.

    Args:
        name: the tracker; its library must be installed.
        job: the run is named after it, and its spec becomes the parameters of the run.
        target: the directory for TensorBoard (default ``runs``), the tracking URI for MLflow
            (default: MLflow's own), or the project for Weights & Biases and Trackio (default
            ``plaudit``). Credentials are configured as the tracker's library documents.

    Raises:
        MissingDependencyError: the tracker's library is not installed.
        DirectoryError: the directory already contains a run of this job.
        ValueError: ``name`` is not a supported tracker.
    """
    match name:
        case "tensorboard":
            return _TensorBoard(job, Path(target or "runs"))
        case "mlflow":
            return _MLflow(job, target)
        case "wandb" | "trackio":
            return _WandbLike(_library(name), job, target)
    raise ValueError(f"Unknown tracker {name!r}; supported are: {', '.join(TRACKERS)}.")


def mirror(
    client: Plaudit,
    job_id: str,
    tracker: Tracker,
    *,
    on_step: Callable[[int], object] = lambda _step: None,
) -> JobRead:
    """Copy the metrics of a job until it ends or is paused, and return its last state.

    ``on_step`` is called with the number of each step that was copied. The newest step of a running
    job is copied once the next step is logged, because an evaluation adds metrics to a step
    afterwards.
    """
    next_step = 0
    while True:
        job = client.jobs.get(job_id)
        is_over = job.status in ("succeeded", "failed", "cancelled", "paused")
        steps = list(_steps(client.jobs.metrics(job_id, from_step=next_step).columns))
        for step, metrics in steps if is_over else steps[:-1]:
            tracker.log(step, metrics)
            on_step(step)
            next_step = step + 1
        if is_over:
            return job
        time.sleep(POLL_SECONDS)


def parameters(job: JobRead) -> dict[str, str | int | float | bool]:
    """Return the spec as flat parameters; names of nested fields have dots, as in ``lora.r``."""
    spec = job.spec if isinstance(job.spec, Mapping) else job.spec.to_dict()
    return dict(_flat("", spec))


def _steps(columns: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    names = [name for name in columns if name != "step"]
    for index, step in enumerate(columns.get("step", ())):
        values = {name: columns[name][index] for name in names}
        yield int(step), {name: value for name, value in values.items() if value is not None}


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, str | int | float):
        yield prefix, value
    elif value is not None:
        yield prefix, str(value)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"The tracker requires the library {name}, which cannot be imported.",
            hint=f"Install it, or the client's extra '{name.partition('.')[0]}'.",
        ) from error


class _TensorBoard(Tracker):
    """Writes event files, which TensorBoard can read during the run."""

    def __init__(self, job: JobRead, directory: Path) -> None:
        self._directory = directory / job.id
        if self._directory.exists() and any(self._directory.iterdir()):
            raise DirectoryError(
                f"{self._directory} already contains a run.",
                hint="Delete it or choose another directory.",
            )
        writer = _library("tensorboard.summary.writer.event_file_writer")
        self._events = _library("tensorboard.compat.proto.event_pb2")
        self._summaries = _library("tensorboard.compat.proto.summary_pb2")
        self._writer = writer.EventFileWriter(str(self._directory))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [
            self._summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        summary = self._summaries.Summary(value=values)
        event = self._events.Event(step=step, wall_time=time.time(), summary=summary)
        self._writer.add_event(event)
        self._writer.flush()

    def finish(self, *, is_success: bool) -> None:  # noqa: ARG002 - TensorBoard has no status
        self._writer.close()


class _MLflow(Tracker):
    """Writes to a run of an MLflow server or directory."""

    EXPERIMENT = "plaudit"

    def __init__(self, job: JobRead, uri: str | None) -> None:
        self._entities = _library("mlflow.entities")
        self._client = _library("mlflow").MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self.EXPERIMENT)
        experiment = (
            known.experiment_id if known else self._client.create_experiment(self.EXPERIMENT)
        )
        run = self._client.create_run(
            experiment, run_name=job.name or job.id, tags={"plaudit.job": job.id}
        )
        self._run_id = run.info.run_id
        params = [
            self._entities.Param(name, str(value)[:500]) for name, value in parameters(job).items()
        ]
        self._client.log_batch(self._run_id, params=params[:100])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = round(datetime.now(UTC).timestamp() * 1000)
        rows = [self._entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=rows)

    def finish(self, *, is_success: bool) -> None:
        status = "FINISHED" if is_success else "FAILED"
        self._client.set_terminated(self._run_id, status=status)


class _WandbLike(Tracker):
    """Writes to a run of Weights & Biases, or of Trackio, which has the same interface."""

    def __init__(self, library: Any, job: JobRead, project: str | None) -> None:
        self._library = library
        library.init(project=project or "plaudit", name=job.name or job.id, config=parameters(job))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._library.log(dict(metrics), step=step)

    def finish(self, *, is_success: bool) -> None:  # noqa: ARG002 - Trackio has no status
        self._library.finish()
