"""Steps from which the handlers of job kinds are composed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from app.adapters import publishing
from app.base_models.catalogue import Catalogue
from app.domain.lifecycle import FailureCode, Phase
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Evaluated, Inspected, Packaged, Verified
from app.job_queue import kinds, worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import Progress
from app.models import Job
from worker.ipc.order import VERIFY, WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, JobFailedError
from worker.supervisor.job_inputs import BaseModel
from worker.supervisor.message_buffer import MessageBuffer
from worker.supervisor.trainer_session import TrainerResult, run_trainer

T = TypeVar("T")

POLL_SECONDS = 0.25


class JobSteps:
    """One attempt at a job, step by step; each step ends early when the attempt has to."""

    def __init__(self, attempt: Attempt, catalogue: Catalogue) -> None:
        self.attempt = attempt
        self._catalogue = catalogue
        self._message_buffer = MessageBuffer(attempt.write_context, self.retry)

    @property
    def job(self) -> Job:
        """The row as it was claimed."""
        return self.attempt.job

    def retry(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``; repeat it while the database is unavailable."""
        return self.attempt.retry_until_database_up(call)

    def set_phase(self, phase: Phase) -> None:
        """Store the job's current phase, for display."""
        self._record(Progress(phase=phase))

    def run_aside(self, call: Callable[[], T]) -> T:
        """Return the result of a slow call, but stop waiting as soon as the attempt must end.

        An abandoned call continues in its thread.
        """
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised by result()
                done.set_exception(error)

        threading.Thread(target=run, name="aside", daemon=True).start()
        while True:
            try:
                return done.result(timeout=POLL_SECONDS)
            except FutureTimeoutError:
                if done.done():
                    return done.result()
                self.attempt.check_interrupt()

    def fetch_base_model(self) -> BaseModel:
        """Fetch the base model. An abandoned download fills the cache for the next job."""
        self.set_phase(Phase.FETCHING)
        entry = self._catalogue.get(self.job.base_model)
        settings, job = self.attempt.settings, self.job
        return self.run_aside(lambda: job_inputs.fetch_base_model(settings, entry, job))

    def stored_plan(self) -> TrainingPlan | None:
        """Return the plan from the submission or from an earlier attempt."""
        return job_inputs.stored_plan(self.job)

    def compile_plan(self, base: BaseModel) -> TrainingPlan:
        """Compile and store the job's plan; inspect the base model first if necessary."""
        self.set_phase(Phase.CHECKING)
        engine = self.attempt.engine
        known = self.retry(lambda: job_inputs.known_facts(engine, base.entry))
        facts = known or self.inspect_base_model(base)
        plan = self.retry(lambda: job_inputs.compile_plan(engine, self.job, base.entry, facts))
        self._record(Progress(plan=plan))
        return plan

    def inspect_base_model(self, base: BaseModel) -> BaseModelFacts:
        """Inspect the base model and store what was found."""
        facts = self.run_inspection(base.order(self.attempt.settings, kinds.INSPECT.action))
        self.retry(lambda: job_inputs.store_facts(self.attempt.engine, base.entry, facts))
        return facts

    def write_training_inputs(self, base: BaseModel, plan: TrainingPlan) -> WorkOrder:
        """Write the files for training, or for an inspection of the same data."""
        self.attempt.check_interrupt()
        action = self.attempt.kind.action
        order = self.retry(
            lambda: job_inputs.write_training_inputs(self.attempt, base, plan, action)
        )
        self.attempt.check_interrupt()
        return order

    def run_trainer(self, order: WorkOrder) -> TrainerResult:
        """Run a trainer to its end and return its result."""
        return run_trainer(self.attempt, self._message_buffer, order)

    def run_inspection(self, order: WorkOrder) -> BaseModelFacts:
        """Run a trainer that inspects a base model."""
        result = self.run_trainer(order)
        if isinstance(result, Inspected):
            return result.facts
        raise JobFailedError(FailureCode.INTERNAL, "the inspection ended without a result")

    def run_and_publish(self, order: WorkOrder) -> None:
        """Run a trainer that makes an adapter or a model, verify it, and end the job with it."""
        packaged = self.run_trainer(order)
        if not isinstance(packaged, Packaged):
            raise JobFailedError(FailureCode.INTERNAL, "the trainer ended without an adapter")
        packaged = packaged.model_copy(update={"certificate": self._verify(order, packaged)})
        self.set_phase(Phase.PUBLISHING)
        directory = self.attempt.directory / packaged.directory
        self.retry(lambda: publishing.publish(self.attempt.write_context, directory, packaged))

    def score_and_publish(
        self, order: WorkOrder, publish: Callable[[WriteContext, Path, Evaluated], None]
    ) -> None:
        """Run a trainer that scores a dataset, and end the job with the scores."""
        scored = self.run_trainer(order)
        if not isinstance(scored, Evaluated):
            raise JobFailedError(FailureCode.INTERNAL, "the trainer ended without scores")
        self.set_phase(Phase.PUBLISHING)
        directory = self.attempt.directory / scored.directory
        self.retry(lambda: publish(self.attempt.write_context, directory, scored))

    def _verify(self, order: WorkOrder, packaged: Packaged) -> dict[str, Any]:
        """Reload the packaged files in a process that never held the trained model."""
        self.set_phase(Phase.VERIFYING)
        changes = {
            "action": VERIFY,
            "adapter": packaged.directory,
            "is_merged": order.action == kinds.MERGE.action,
        }
        verified = self.run_trainer(order.model_copy(update=changes))
        if not isinstance(verified, Verified):
            raise JobFailedError(FailureCode.INTERNAL, "the verification ended without a result")
        return verified.certificate

    def complete(self, result: dict[str, Any]) -> None:
        """End a job whose result is a document."""
        self.retry(lambda: worker_api.complete(self.attempt.write_context, result))

    def _record(self, progress: Progress) -> None:
        self.retry(lambda: worker_api.record_progress(self.attempt.write_context, progress))
