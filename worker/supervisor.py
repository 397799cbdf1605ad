"""Runs one claimed job: lays out its files, starts its trainer, hears it, hands the job back."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy import Engine

from app.base_models.catalogue import BaseModelEntry, Catalogue
from app.base_models.faults import BaseModelError
from app.base_models.sources import FetchedModel
from app.domain.lifecycle import Desired, FailureCode, JobKind, Phase
from app.domain.order import EXIT_STOPPED, EXIT_WATCHDOG, ORDER_FILE, WorkOrder
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import (
    MESSAGE,
    CheckpointSaved,
    Failed,
    Inspected,
    Packaged,
)
from app.domain.rules import SpecRejected
from app.domain.spec import Resources
from app.jobs import checkpoints, leases
from app.jobs.artifacts import ArtifactDamaged, ArtifactTooLarge
from app.jobs.repository import Lease, LeaseLost
from app.models import Job
from app.settings import Settings
from worker import preparation
from worker.journal import Journal
from worker.keeper import LeaseKeeper, until_answered
from worker.process import Spawn, TrainerProcess

log = structlog.get_logger()

#: Failures that another host may not have.
OF_THE_HOST = (FailureCode.DISK_FULL, FailureCode.CUDA_ERROR, FailureCode.TRAINER_CRASHED)
T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one trainer: its number, its lock's descriptor, its GPU."""

    name: str
    lock: int  # inherited by the trainer: the slot is free only when both are gone
    gpu: int | None


class JobFailed(Exception):
    """The attempt ends with a typed failure."""

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.step = code, detail, step


class Interrupted(Exception):
    """The job's owner or a drain ended the attempt; a checkpoint may have been saved."""


class Supervisor:
    """One attempt at one job."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        catalogue: Catalogue,
        spawn: Spawn,
        slot: Slot,
        host: str,
        keeper: LeaseKeeper,
        job: Job,
        lease: Lease,
    ) -> None:
        self._engine, self._settings, self._catalogue = engine, settings, catalogue
        self._slot, self._keeper, self._job, self._lease = slot, keeper, job, lease
        self._spawn = spawn
        self._directory = (settings.work_dir / job.id / str(lease.attempt)).absolute()
        self._host = host
        self._log = log.bind(job_id=job.id, attempt=lease.attempt)
        self._started_at = time.monotonic()
        self._journal = Journal(self._held(), self._answered)
        #: How the attempt failed; the worker's brake looks at it.
        self.failure: FailureCode | None = None

    def run(self) -> None:
        """Work until the job is handed back, one way or another; nothing is left behind."""
        self._log.info("attempt_started", kind=self._job.kind)
        self._keeper.start()
        try:
            self._directory.mkdir(parents=True)
            self._work()
        except LeaseLost:
            self._log.warning("attempt_abandoned")
        except Interrupted:
            self._hand_back()
        except JobFailed as failure:
            self._fail(failure)
        except BaseModelError as error:
            self._fail(JobFailed(error.failure, error.detail))
        except SpecRejected as rejected:
            self._fail(JobFailed(FailureCode.INVALID_SPEC, str(rejected)))
        except ArtifactTooLarge as error:
            self._fail(JobFailed(FailureCode.ARTIFACT_TOO_LARGE, str(error)))
        except OSError as error:
            self._log.warning("attempt_broke", exc_info=True)
            full = error.errno in preparation.DISK_FULL
            code = FailureCode.DISK_FULL if full else FailureCode.INTERNAL
            self._fail(JobFailed(code, str(error)))
        except Exception as error:
            logger = self._log
            logger.exception("attempt_broke")
            self._fail(JobFailed(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            self._keeper.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._log.info("attempt_ended")

    def _work(self) -> None:
        self._set_phase(Phase.FETCHING)
        entry = preparation.entry_of(self._catalogue, self._job)
        model = self._fetch(entry)
        if self._job.kind == JobKind.PREFLIGHT:
            self._preflight(entry, model)
            return
        if self._job.kind == JobKind.MERGE:
            order = self._answered(lambda: self._lay_out_merge(entry, model))
        else:
            plan = preparation.stored_plan(self._job) or self._compile(entry, model)
            order = self._lay_out(entry, model, plan)
        packaged = self._train(order)
        self._set_phase(Phase.PUBLISHING)
        directory = self._directory / packaged.directory
        self._answered(
            lambda: leases.publish(self._engine, self._settings, self._lease, directory, packaged)
        )

    def _preflight(self, entry: BaseModelEntry, model: FetchedModel) -> None:
        """Look at the base model; with data also at what it would take to train on them."""
        if self._job.train_dataset_id is None:
            self._learn_facts(entry, model)
        else:
            plan = self._compile(entry, model)
            order = self._lay_out(entry, model, plan)
            self._inspect(order.model_copy(update={"action": "inspect"}))
        self._answered(lambda: leases.complete(self._engine, self._lease, {}))

    def _compile(self, entry: BaseModelEntry, model: FetchedModel) -> TrainingPlan:
        """The job's plan, from what is known about its base model or is found out now."""
        self._set_phase(Phase.CHECKING)
        known = self._answered(lambda: preparation.known_facts(self._engine, entry))
        facts = known or self._learn_facts(entry, model)
        plan = self._answered(
            lambda: preparation.compile_for(self._engine, self._job, entry, facts)
        )
        self._answered(lambda: leases.record(*self._held(), plan=plan))
        return plan

    def _learn_facts(self, entry: BaseModelEntry, model: FetchedModel) -> BaseModelFacts:
        facts = self._inspect(preparation.inspect_order(entry, model, self._settings))
        self._answered(lambda: preparation.keep_facts(self._engine, entry, facts))
        return facts

    def _fetch(self, entry: BaseModelEntry) -> FetchedModel:
        """The base model, or the end: a download of hours must not hold up a cancel.

        One that is given up goes on in its thread and serves the next job.
        """
        done: Future[FetchedModel] = Future()

        def fetch() -> None:
            try:
                done.set_result(preparation.fetch_model(self._settings, entry, self._job))
            except BaseException as error:  # noqa: BLE001 - raised by result()
                done.set_exception(error)

        threading.Thread(target=fetch, name="fetch", daemon=True).start()
        while True:
            try:
                return done.result(timeout=0.25)
            except FutureTimeout:
                if done.done():
                    return done.result()
                self._check_interrupt()

    def _lay_out(self, entry: BaseModelEntry, model: FetchedModel, plan: TrainingPlan) -> WorkOrder:
        self._check_interrupt()
        held = (self._engine, self._settings, self._job)
        order = self._answered(
            lambda: preparation.lay_out(*held, entry, model, plan, self._directory)
        )
        self._check_interrupt()
        return order

    def _lay_out_merge(self, entry: BaseModelEntry, model: FetchedModel) -> WorkOrder:
        return preparation.lay_out_merge(
            self._engine, self._settings, self._job, entry, model, self._directory
        )

    def _inspect(self, order: WorkOrder) -> BaseModelFacts:
        last = self._converse(order)
        if isinstance(last, Inspected):
            return last.facts
        raise JobFailed(FailureCode.INTERNAL, "the inspection ended without a finding")

    def _train(self, order: WorkOrder) -> Packaged:
        last = self._converse(order)
        if isinstance(last, Packaged):
            return last
        raise JobFailed(FailureCode.INTERNAL, "the trainer ended without an adapter")

    def _converse(self, order: WorkOrder) -> Packaged | Inspected | None:
        """Start a trainer, hear it to its end, and write down what it says."""
        (self._directory / ORDER_FILE).write_text(order.model_dump_json())
        child = TrainerProcess(
            self._directory,
            self._spawn,
            keep=(self._slot.lock,),
            gpu=self._slot.gpu,
            memory_bytes=(
                self._settings.preflight_memory_bytes
                if order.action == "inspect"
                else self._settings.trainer_memory_bytes
            ),
        )
        self._keeper.watch(child)
        result: Packaged | Inspected | None = None
        failure: Failed | None = None
        stop_by: float | None = None
        try:
            while True:
                try:
                    line = child.lines.get(timeout=0.25)
                except queue.Empty:
                    line = b""
                if line is None:
                    break
                if line:
                    message = _parse(line)
                    match message:
                        case Packaged() | Inspected():
                            result = message
                        case Failed():
                            failure = message
                        case CheckpointSaved():
                            # First what led to it: a resumed run does not say that again.
                            self._journal.flush(child, force=True)
                            self._store_checkpoint(message)
                        case _:
                            self._journal.take(message)
                self._journal.flush(child)
                stop_by = self._watch_intent(child, stop_by)
        finally:
            child.kill()
            self._keeper.watch(None)
            status = child.wait()
        if self._keeper.is_lost:
            raise LeaseLost(self._job.id)
        self._journal.flush(child, force=True)
        if stop_by is not None:
            # Asked to stop, it may have come to its end first; a cancel that it knew of counts.
            if result is None or self._keeper.desired == Desired.CANCEL:
                raise Interrupted
            return result
        if failure is not None:
            raise JobFailed(failure.code, failure.detail, failure.step)
        if status == 0:
            return result
        raise _crash(status)

    def _watch_intent(self, child: TrainerProcess, stop_by: float | None) -> float | None:
        """Pass on what the owner wants; when the trainer was asked, by when it must be gone."""
        now = time.monotonic()
        if self._keeper.is_lost:
            child.kill()
            return stop_by
        self._check_deadline()
        if not self._keeper.interrupt.is_set():
            return None
        if stop_by is None:
            stop_by = now + self._settings.drain_seconds
            child.ask_to_stop()
        # A cancel may come after a pause or a drain was passed on.
        if now > stop_by or not self._wants_checkpoint():
            child.kill()
        return stop_by

    def _wants_checkpoint(self) -> bool:
        if self._job.kind != JobKind.TRAIN:
            return False
        if self._keeper.desired != Desired.CANCEL:
            return True
        return self._answered(lambda: preparation.keeps_checkpoint(self._engine, self._job.id))

    def _check_deadline(self) -> None:
        limit = self._runtime_limit()
        if time.monotonic() - self._started_at > limit - self._job.runtime_ms / 1000:
            raise JobFailed(FailureCode.TIMED_OUT, f"it ran for its max_runtime_seconds, {limit}")

    def _runtime_limit(self) -> int:
        if self._job.kind == JobKind.PREFLIGHT:
            return self._settings.preflight_seconds
        # The row holds what was asked, without the defaults.
        asked = self._job.spec.get("resources", {})
        return Resources.model_validate(asked).max_runtime_seconds

    def _store_checkpoint(self, message: CheckpointSaved) -> None:
        """A checkpoint that cannot be stored is not worth ending the run for."""
        directory = self._directory / message.directory
        try:
            self._answered(lambda: checkpoints.save(*self._held(), directory, message))
        except (ArtifactDamaged, FileNotFoundError) as error:
            self._log.warning("checkpoint_not_stored", error=str(error))

    def _set_phase(self, phase: Phase) -> None:
        self._answered(lambda: leases.record(*self._held(), phase=phase))

    def _check_interrupt(self) -> None:
        if self._keeper.is_lost:
            raise LeaseLost(self._job.id)
        if self._keeper.interrupt.is_set():
            raise Interrupted
        self._check_deadline()

    def _hand_back(self) -> None:
        reason = (
            "The worker is being shut down."
            if self._keeper.is_draining
            else f"Its owner wants: {self._keeper.desired}."
        )
        self._end(lambda: leases.release(self._engine, self._lease, reason))

    def _fail(self, failure: JobFailed) -> None:
        self.failure = failure.code
        self._log.warning("attempt_failed", code=failure.code, detail=failure.detail)
        host = self._host if failure.code in OF_THE_HOST else None
        self._end(
            lambda: leases.fail(
                *self._held(), failure.code, failure.detail, failure.step, host=host
            )
        )

    def _end(self, write: Callable[[], object]) -> None:
        try:
            self._answered(write)
        except LeaseLost:
            self._log.warning("lease_lost_at_end")

    def _answered(self, call: Callable[[], T]) -> T:
        return until_answered(self._keeper, call)

    def _held(self) -> tuple[Engine, Settings, Lease]:
        return self._engine, self._settings, self._lease


def _parse(line: bytes) -> object:
    try:
        # PostgreSQL stores no NUL in text.
        return MESSAGE.validate_json(line.replace(b"\\u0000", b"\\ufffd"))
    except ValidationError as error:
        raise JobFailed(
            FailureCode.INTERNAL, f"the trainer said what this service does not know: {error}"
        ) from error


def _crash(status: int) -> JobFailed:
    if status == EXIT_WATCHDOG:
        return JobFailed(FailureCode.TRAINER_CRASHED, "the trainer heard nothing and went")
    if status == EXIT_STOPPED:
        return JobFailed(FailureCode.INTERNAL, "the trainer stopped though nobody asked")
    if status < 0:
        return JobFailed(
            FailureCode.TRAINER_CRASHED,
            f"the trainer was killed by signal {-status} (9: often the kernel, out of memory)",
        )
    return JobFailed(FailureCode.TRAINER_CRASHED, f"the trainer exited with status {status}")
