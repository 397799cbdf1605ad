"""Errors of the jobs API."""

from __future__ import annotations

from app.core.errors import ConflictError, NotFoundError


class JobNotFoundError(NotFoundError):
    """This tenant has no job with this id."""

    code = "job_not_found"
    title = "No such job"


class ReportNotFoundError(NotFoundError):
    """The job has no such report, or does not have it yet."""

    code = "report_not_found"
    title = "No such report"


class JobFinishedError(ConflictError):
    """The job has finished and can no longer change."""

    code = "job_finished"
    title = "The job is finished"
    next_step = "Clone the job: `POST /v1/jobs/{id}/clone`."


class JobLiveError(ConflictError):
    """The job has not finished."""

    code = "job_live"
    title = "The job is not finished"
    next_step = "Cancel the job or wait until it finishes, then delete it."


class JobStateError(ConflictError):
    """The state of the job does not allow the operation."""

    code = "job_state"
    title = "The state of the job does not allow this"
    next_step = "Read the job's status; `hint` names the state that the operation needs."


def job_not_found(job_id: str) -> JobNotFoundError:
    """Return the error for a job that does not exist or belongs to another tenant."""
    return JobNotFoundError(f"There is no job {job_id}.")
