"""Runs one claimed job: lays out its files, starts its trainer, hears it, hands the job back."""

from __future__ import annotations

import queue
import shutil
import time
from dataclasses import dataclass

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
    Noted,
    Packaged,
    PhaseChanged,
    Reported,
    Stepped,
)
from app.domain.rules import SpecRejected
from app.domain.spec import RewardJobSpec
from app.jobs import leases
from app.jobs.repository import Lease, LeaseLost
from app.models import Job
from app.settings import Settings
from worker import preparation
from worker.keeper import LeaseKeeper, until_written
from worker.process import Spawn, TrainerProcess

log = structlog.get_logger()

LOG_PIECE_BYTES = 64 << 10
LOG_LIMIT_BYTES = 50 << 20
WRITE_SECONDS = 0.5


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
        keeper: LeaseKeeper,
        job: Job,
        lease: Lease,
    ) -> None:
        self._engine, self._settings, self._catalogue = engine, settings, catalogue
        self._slot, self._keeper, self._job, self._lease = slot, keeper, job, lease
        self._spawn = spawn
        self._directory = (settings.work_dir / job.id / str(lease.attempt)).absolute()
        self._deadline = _deadline(job)
        self._log_seq = self._logged = 0
        self._steps: list[Stepped] = []
        self._notes: list[Noted] = []
        self._reports: list[Reported] = []
        self._phase: str | None = None
        self._written_at = 0.0

    def run(self) -> None:
        """Work until the job is handed back, one way or another; nothing is left behind."""
        logger = log.bind(job_id=self._job.id, attempt=self._lease.attempt)
        logger.info("attempt_started", kind=self._job.kind)
        self._keeper.start()
        try:
            self._directory.mkdir(parents=True)
            self._work()
        except LeaseLost:
            logger.warning("attempt_abandoned")
        except Interrupted:
            self._hand_back()
        except JobFailed as failure:
            self._fail(failure)
        except BaseModelError as error:
            self._fail(JobFailed(error.failure, error.detail))
        except SpecRejected as rejected:
            self._fail(JobFailed(FailureCode.INVALID_SPEC, str(rejected)))
        except leases.ArtifactTooLarge as error:
            self._fail(JobFailed(FailureCode.ARTIFACT_TOO_LARGE, str(error)))
        except OSError as error:
            logger.exception("attempt_broke")
            full = error.errno in preparation.DISK_FULL
            code = FailureCode.DISK_FULL if full else FailureCode.INTERNAL
            self._fail(JobFailed(code, str(error)))
        except Exception as error:
            logger.exception("attempt_broke")
            self._fail(JobFailed(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            self._keeper.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            logger.info("attempt_ended")

    def _work(self) -> None:
        self._set_phase(Phase.FETCHING)
        entry = preparation.entry_of(self._catalogue, self._job)
        model = preparation.fetch_model(self._settings, entry, self._job)
        self._check_interrupt()
        if self._job.kind == JobKind.PREFLIGHT:
            self._preflight(entry, model)
            return
        plan = preparation.stored_plan(self._job) or self._compile(entry, model)
        order = preparation.lay_out(
            self._engine, self._settings, self._job, entry, model, plan, self._directory
        )
        packaged = self._train(order)
        self._set_phase(Phase.PUBLISHING)
        directory = self._directory / packaged.directory
        self._write(
            lambda: leases.publish(self._engine, self._settings, self._lease, directory, packaged)
        )

    def _preflight(self, entry: BaseModelEntry, model: FetchedModel) -> None:
        """Look at the base model; with data also at what it would take to train on them."""
        if self._job.train_dataset_id is None:
            self._learn_facts(entry, model)
        else:
            plan = self._compile(entry, model)
            order = preparation.lay_out(
                self._engine, self._settings, self._job, entry, model, plan, self._directory
            )
            self._inspect(order.model_copy(update={"action": "inspect"}))
        self._write(lambda: leases.complete(self._engine, self._lease, {}))

    def _compile(self, entry: BaseModelEntry, model: FetchedModel) -> TrainingPlan:
        """The job's plan, from what is known about its base model or is found out now."""
        self._set_phase(Phase.CHECKING)
        facts = preparation.known_facts(self._engine, entry) or self._learn_facts(entry, model)
        plan = preparation.compile_for(self._engine, self._job, entry, facts)
        self._write(lambda: leases.record(*self._held(), plan=plan))
        return plan

    def _learn_facts(self, entry: BaseModelEntry, model: FetchedModel) -> BaseModelFacts:
        facts = self._inspect(preparation.inspect_order(entry, model, self._settings))
        preparation.keep_facts(self._engine, entry, facts)
        return facts

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
            self._directory, self._spawn, keep=(self._slot.lock,), gpu=self._slot.gpu
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
                            self._store_checkpoint(message)
                        case _:
                            self._take(message)
                self._flush(child)
                stop_by = self._watch_intent(child, stop_by)
        finally:
            child.kill()
            self._keeper.watch(None)
            status = child.wait()
        if self._keeper.is_lost:
            raise LeaseLost(self._job.id)
        self._flush(child, force=True)
        if stop_by is not None and result is None:
            raise Interrupted
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
        if now > self._deadline:
            child.kill()
            seconds = _runtime_limit(self._job)
            raise JobFailed(FailureCode.TIMED_OUT, f"it ran for its max_runtime_seconds, {seconds}")
        if stop_by is not None:
            if now > stop_by:
                child.kill()
            return stop_by
        if not self._keeper.interrupt.is_set():
            return None
        is_cancel = self._keeper.desired == Desired.CANCEL
        if (is_cancel and not self._wants_checkpoint()) or self._job.kind != JobKind.TRAIN:
            child.kill()
            return now
        child.ask_to_stop()
        return now + self._settings.drain_seconds

    def _wants_checkpoint(self) -> bool:
        return preparation.keeps_checkpoint(self._engine, self._job.id)

    def _take(self, message: object) -> None:
        match message:
            case Stepped():
                self._steps.append(message)
            case Noted():
                self._notes.append(message)
            case Reported():
                self._reports.append(message)
            case PhaseChanged():
                self._phase = message.phase

    def _flush(self, child: TrainerProcess, *, force: bool = False) -> None:
        """Write what was heard, at most twice a second."""
        if not force and time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        if self._steps or self._notes or self._reports or self._phase:
            steps, notes, reports = self._steps, self._notes, self._reports
            phase = self._phase
            self._steps, self._notes, self._reports, self._phase = [], [], [], None
            self._write(
                lambda: leases.record(
                    *self._held(), phase=phase, steps=steps, notes=notes, reports=reports
                )
            )
        while text := child.take_log(LOG_PIECE_BYTES):
            self._logged += len(text)
            if self._logged > LOG_LIMIT_BYTES:
                break
            seq, self._log_seq = self._log_seq, self._log_seq + 1
            piece = text
            self._write(lambda: leases.record_log(*self._held(), seq, piece))  # noqa: B023

    def _store_checkpoint(self, message: CheckpointSaved) -> None:
        """A checkpoint that cannot be stored is not worth ending the run for."""
        directory = self._directory / message.directory
        try:
            self._write(lambda: leases.save_checkpoint(*self._held(), directory, message))
        except (leases.ArtifactDamaged, FileNotFoundError) as error:
            log.warning("checkpoint_not_stored", job_id=self._job.id, error=str(error))

    def _set_phase(self, phase: Phase) -> None:
        self._write(lambda: leases.record(*self._held(), phase=phase))

    def _check_interrupt(self) -> None:
        if self._keeper.is_lost:
            raise LeaseLost(self._job.id)
        if self._keeper.interrupt.is_set():
            raise Interrupted

    def _hand_back(self) -> None:
        reason = (
            "The worker is being shut down."
            if self._keeper.is_draining
            else f"Its owner wants: {self._keeper.desired}."
        )
        self._end(lambda: leases.release(self._engine, self._lease, reason))

    def _fail(self, failure: JobFailed) -> None:
        log.warning("attempt_failed", job_id=self._job.id, code=failure.code, detail=failure.detail)
        self._end(
            lambda: leases.fail(
                self._engine,
                self._settings,
                self._lease,
                failure.code,
                failure.detail,
                failure.step,
            )
        )

    def _end(self, write: object) -> None:
        try:
            self._write(write)
        except LeaseLost:
            log.warning("lease_lost_at_end", job_id=self._job.id)

    def _write(self, write: object) -> None:
        assert callable(write)
        until_written(self._keeper, self._settings, write)

    def _held(self) -> tuple[Engine, Settings, Lease]:
        return self._engine, self._settings, self._lease


def _parse(line: bytes) -> object:
    try:
        return MESSAGE.validate_json(line)
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


def _deadline(job: Job) -> float:
    return time.monotonic() + _runtime_limit(job) - job.runtime_ms / 1000


def _runtime_limit(job: Job) -> int:
    # The row holds what was asked, without the defaults.
    return RewardJobSpec.model_validate(job.spec).resources.max_runtime_seconds
