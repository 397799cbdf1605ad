"""Runs one claimed job: lays out its files, has its trainer run, hands the job back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress

import structlog
from pydantic import ValidationError

from app.adapters import publishing
from app.base_models.catalogue import BaseModelEntry, Catalogue
from app.base_models.faults import BaseModelError
from app.base_models.sources import FetchedModel
from app.domain.lifecycle import FailureCode, JobKind, Phase
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Inspected, Packaged
from app.domain.rules import SpecRejectedError
from app.job_queue import worker_api
from app.job_queue.transitions import LeaseLostError
from app.storage.artifact_files import ArtifactTooLargeError
from app.storage.free_space import StorageFullError
from worker.ipc.order import WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, AttemptInterruptedError, JobFailedError
from worker.supervisor.circuit_breaker import OF_THE_MACHINE
from worker.supervisor.message_buffer import MessageBuffer
from worker.supervisor.trainer_session import run_trainer

log = structlog.get_logger()


class Supervisor:
    """Sees one attempt through."""

    def __init__(self, attempt: Attempt, catalogue: Catalogue, host: str) -> None:
        self._attempt, self._catalogue, self._host = attempt, catalogue, host
        self._engine, self._settings = attempt.engine, attempt.settings
        self._job, self._lease = attempt.job, attempt.lease
        self._answered = attempt.answered
        self._log = log.bind(job_id=attempt.job.id, attempt=attempt.lease.attempt)
        self._journal = MessageBuffer(attempt.held, attempt.answered)
        #: How the attempt failed; the worker's brake looks at it.
        self.failure: FailureCode | None = None

    def run(self) -> None:
        """Work until the job is handed back, one way or another; nothing is left behind."""
        self._log.info("attempt_started", kind=self._job.kind)
        self._attempt.keeper.start()
        try:
            self._attempt.directory.mkdir(parents=True)
            self._work()
        except LeaseLostError:
            self._log.warning("attempt_abandoned")
        except AttemptInterruptedError:
            self._hand_back()
        except JobFailedError as failure:
            self._fail(failure)
        except BaseModelError as error:
            self._fail(JobFailedError(error.failure, error.detail))
        except SpecRejectedError as rejected:
            self._fail(JobFailedError(FailureCode.INVALID_SPEC, str(rejected)))
        except StorageFullError as error:
            self._fail(JobFailedError(FailureCode.DISK_FULL, error.detail))
        except ArtifactTooLargeError as error:
            self._fail(JobFailedError(FailureCode.ARTIFACT_TOO_LARGE, str(error)))
        except ValidationError as error:  # what a worker of that version may understand
            detail = f"another version than this worker's wrote what the job needs: {error}"
            self._fail(JobFailedError(FailureCode.HOST_ERROR, detail))
        except OSError as error:
            self._log.warning("attempt_broke", exc_info=True)
            full = error.errno in job_inputs.DISK_FULL
            code = FailureCode.DISK_FULL if full else FailureCode.HOST_ERROR
            self._fail(JobFailedError(code, str(error)))
        except Exception as error:
            logger = self._log
            logger.exception("attempt_broke")
            self._fail(JobFailedError(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            self._attempt.keeper.stop()
            shutil.rmtree(self._attempt.directory, ignore_errors=True)
            with suppress(OSError):  # the next attempt works there already
                self._attempt.directory.parent.rmdir()
            self._log.info("attempt_ended")

    def _work(self) -> None:
        self._set_phase(Phase.FETCHING)
        entry = job_inputs.entry_of(self._catalogue, self._job)
        model = self._fetch(entry)
        if self._job.kind == JobKind.PREFLIGHT:
            self._preflight(entry, model)
            return
        if self._job.kind == JobKind.MERGE:
            order = self._answered(
                lambda: job_inputs.write_merge_inputs(
                    self._engine, self._settings, self._job, entry, model, self._attempt.directory
                )
            )
        else:
            plan = job_inputs.stored_plan(self._job) or self._compile(entry, model)
            order = self._lay_out(entry, model, plan)
        packaged = self._train(order)
        self._set_phase(Phase.PUBLISHING)
        directory = self._attempt.directory / packaged.directory
        self._answered(lambda: publishing.publish(*self._attempt.held, directory, packaged))

    def _preflight(self, entry: BaseModelEntry, model: FetchedModel) -> None:
        """Look at the base model; with data also at what it would take to train on them."""
        if self._job.train_dataset_id is None:
            self._learn_facts(entry, model)
        else:
            plan = self._compile(entry, model)
            order = self._lay_out(entry, model, plan)
            self._inspect(order.model_copy(update={"action": "inspect"}))
        self._answered(lambda: worker_api.complete(self._engine, self._lease, {}))

    def _compile(self, entry: BaseModelEntry, model: FetchedModel) -> TrainingPlan:
        """The job's plan, from what is known about its base model or is found out now."""
        self._set_phase(Phase.CHECKING)
        known = self._answered(lambda: job_inputs.known_facts(self._engine, entry))
        facts = known or self._learn_facts(entry, model)
        plan = self._answered(lambda: job_inputs.compile_for(self._engine, self._job, entry, facts))
        self._answered(lambda: worker_api.record(*self._attempt.held, plan=plan))
        return plan

    def _learn_facts(self, entry: BaseModelEntry, model: FetchedModel) -> BaseModelFacts:
        facts = self._inspect(job_inputs.inspect_order(entry, model, self._settings))
        self._answered(lambda: job_inputs.keep_facts(self._engine, entry, facts))
        return facts

    def _fetch(self, entry: BaseModelEntry) -> FetchedModel:
        """The base model, or the end: a download of hours must not hold up a cancel.

        One that is given up goes on in its thread and serves the next job.
        """
        done: Future[FetchedModel] = Future()

        def fetch() -> None:
            try:
                done.set_result(job_inputs.fetch_model(self._settings, entry, self._job))
            except BaseException as error:  # noqa: BLE001 - raised by result()
                done.set_exception(error)

        threading.Thread(target=fetch, name="fetch", daemon=True).start()
        while True:
            try:
                return done.result(timeout=0.25)
            except FutureTimeout:
                if done.done():
                    return done.result()
                self._attempt.check_interrupt()

    def _lay_out(self, entry: BaseModelEntry, model: FetchedModel, plan: TrainingPlan) -> WorkOrder:
        self._attempt.check_interrupt()
        held, directory = (self._engine, self._settings, self._job), self._attempt.directory
        order = self._answered(lambda: job_inputs.lay_out(*held, entry, model, plan, directory))
        self._attempt.check_interrupt()
        return order

    def _inspect(self, order: WorkOrder) -> BaseModelFacts:
        last = run_trainer(self._attempt, self._journal, order)
        if isinstance(last, Inspected):
            return last.facts
        raise JobFailedError(FailureCode.INTERNAL, "the inspection ended without a finding")

    def _train(self, order: WorkOrder) -> Packaged:
        last = run_trainer(self._attempt, self._journal, order)
        if isinstance(last, Packaged):
            return last
        raise JobFailedError(FailureCode.INTERNAL, "the trainer ended without an adapter")

    def _set_phase(self, phase: Phase) -> None:
        self._answered(lambda: worker_api.record(*self._attempt.held, phase=phase))

    def _hand_back(self) -> None:
        keeper = self._attempt.keeper
        reason = (
            "The worker is being shut down."
            if keeper.is_draining
            else f"Its owner wants: {keeper.desired}."
        )
        self._end(lambda: worker_api.release(self._engine, self._lease, reason))

    def _fail(self, failure: JobFailedError) -> None:
        self.failure = failure.code
        self._log.warning("attempt_failed", code=failure.code, detail=failure.detail)
        host = self._host if failure.code in OF_THE_MACHINE else None
        self._end(
            lambda: worker_api.fail(
                *self._attempt.held, failure.code, failure.detail, failure.step, host=host
            )
        )

    def _end(self, write: Callable[[], object]) -> None:
        try:
            self._answered(write)
        except LeaseLostError:
            self._log.warning("lease_lost_at_end")
