"""Run one claimed job to its end and give the lease back."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress

import structlog
from pydantic import ValidationError

from app.base_models.catalogue import Catalogue
from app.base_models.errors import BaseModelError
from app.domain.lifecycle import FailureCode
from app.domain.spec_problems import SpecRejectedError
from app.job_queue import worker_api
from app.job_queue.kinds import UnknownKindError
from app.job_queue.lease import LeaseLostError
from app.job_queue.worker_api import AttemptFailure
from app.storage.artifact_files import ArtifactTooLargeError
from app.storage.free_space import StorageFullError
from worker.supervisor import kinds
from worker.supervisor.attempt import Attempt, AttemptInterruptedError, JobFailedError
from worker.supervisor.circuit_breaker import OF_THE_MACHINE
from worker.supervisor.job_steps import JobSteps

log = structlog.get_logger()

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class JobRunner:
    """Runs one attempt."""

    def __init__(self, attempt: Attempt, catalogue: Catalogue, host: str) -> None:
        self._attempt, self._catalogue, self._host = attempt, catalogue, host
        self._log = log.bind(job_id=attempt.job.id, attempt=attempt.lease.attempt)
        #: How the attempt failed; None when it did not.
        self.failure: FailureCode | None = None
        #: The action of the trainer that failed; None when no trainer did.
        self.failed_action: str | None = None

    def run(self) -> None:
        """Work until the attempt has ended in the database; remove the work directory."""
        self._log.info("attempt_started", kind=self._attempt.job.kind)
        self._attempt.lease_renewer.start()
        try:
            self._attempt.directory.mkdir(parents=True)
            handle = kinds.load_handler(self._attempt.kind)
            handle(JobSteps(self._attempt, self._catalogue))
        except LeaseLostError:
            self._log.warning("attempt_abandoned")
        except AttemptInterruptedError:
            self._release()
        except Exception as error:  # noqa: BLE001 - every error becomes a typed failure
            self._fail(self._failure_of(error))
        finally:
            self._attempt.lease_renewer.stop()
            shutil.rmtree(self._attempt.directory, ignore_errors=True)
            with suppress(OSError):  # the next attempt already has a directory there
                self._attempt.directory.parent.rmdir()
            self._log.info("attempt_ended")

    def _failure_of(self, error: Exception) -> JobFailedError:
        """Return the typed failure for an error; log the unexpected ones."""
        match error:
            case JobFailedError():
                return error
            case BaseModelError():
                # The hint of the failure's code refers to the advice in the detail.
                detail = f"{error.detail} {error.hint}" if error.hint else error.detail
                return JobFailedError(error.failure, detail)
            case SpecRejectedError():
                return JobFailedError(FailureCode.INVALID_SPEC, str(error))
            case StorageFullError():
                return JobFailedError(FailureCode.DISK_FULL, error.detail)
            case ArtifactTooLargeError():
                return JobFailedError(FailureCode.ARTIFACT_TOO_LARGE, str(error))
            case UnknownKindError():
                return JobFailedError(FailureCode.HOST_ERROR, str(error))
            case ValidationError():  # a worker of the version that wrote it can read it
                detail = f"another version of Plaudit wrote data that the job needs: {error}"
                return JobFailedError(FailureCode.HOST_ERROR, detail)
            case OSError():
                self._log.warning("attempt_broke", exc_info=error)
                is_full = error.errno in DISK_FULL
                code = FailureCode.DISK_FULL if is_full else FailureCode.HOST_ERROR
                return JobFailedError(code, str(error))
        self._log.error("attempt_broke", exc_info=error)
        return JobFailedError(FailureCode.INTERNAL, f"{type(error).__name__}: {error}")

    def _release(self) -> None:
        renewer = self._attempt.lease_renewer
        reason = (
            "The worker is being shut down."
            if renewer.is_draining
            else f"The owner asked for: {renewer.desired}."
        )
        self._end(lambda: worker_api.release(self._attempt.write_context, reason))

    def _fail(self, error: JobFailedError) -> None:
        self.failure, self.failed_action = error.code, error.action
        self._log.warning("attempt_failed", code=error.code, detail=error.detail)
        host = self._host if error.code in OF_THE_MACHINE else None
        failure = AttemptFailure(error.code, error.detail, error.step, avoid_host=host)
        self._end(lambda: worker_api.fail(self._attempt.write_context, failure))

    def _end(self, write: Callable[[], object]) -> None:
        try:
            self._attempt.retry_until_database_up(write)
        except LeaseLostError:
            self._log.warning("lease_lost_at_end")
