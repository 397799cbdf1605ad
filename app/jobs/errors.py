"""Refusals of the jobs API."""

from __future__ import annotations

from app.core.errors import ConflictError, InvalidError, NotFoundError


class JobNotFoundError(NotFoundError):
    """No job of this tenant has this id."""

    code = "job_not_found"
    title = "No such job"


class JobFinishedError(ConflictError):
    """The job has ended; nothing about it changes any more."""

    code = "job_finished"
    title = "The job is finished"
    next_step = "Clone the job: `POST /v1/jobs/{id}/clone`."


class JobLiveError(ConflictError):
    """The job has not ended yet."""

    code = "job_live"
    title = "The job is not finished"
    next_step = "Cancel the job, or wait for its end, then delete it."


class KeyReusedError(InvalidError):
    """The idempotency key belongs to another request."""

    code = "idempotency_key_reused"
    title = "The Idempotency-Key was used before"
    next_step = "Take a fresh Idempotency-Key for each new request."


def not_found(job_id: str) -> JobNotFoundError:
    """No such job, or not this tenant's."""
    return JobNotFoundError(f"There is no job {job_id}.")


class JobStateError(ConflictError):
    """The job's state does not allow the act."""

    code = "job_state"
    title = "Not in this state"
    next_step = "Read the job's status; `hint` says what would have to be."
