"""Errors of evaluations."""

from __future__ import annotations

from app.core.errors import ConflictError, InvalidError, NotFoundError


class EvaluationNotFoundError(NotFoundError):
    """This tenant has no evaluation with this id."""

    code = "evaluation_not_found"
    title = "No such evaluation"


class EvaluationUnfinishedError(ConflictError):
    """The evaluation has no result, because it has not succeeded."""

    code = "evaluation_unfinished"
    title = "The evaluation has no result"
    next_step = "Wait until its status is `succeeded`: `GET /v1/evaluations/{id}?wait=60`."


class EvaluationLiveError(ConflictError):
    """The evaluation has not finished."""

    code = "evaluation_live"
    title = "The evaluation is not finished"
    next_step = "Cancel the evaluation or wait until it finishes, then delete it."


class EvaluationFinishedError(ConflictError):
    """The evaluation has finished and can no longer be cancelled."""

    code = "evaluation_finished"
    title = "The evaluation is finished"
    next_step = "Read its result, or request another evaluation."


class InvalidEvaluationError(InvalidError):
    """The adapters, the dataset and the suite of an evaluation are not compatible."""

    code = "invalid_evaluation"
    title = "The evaluation is not valid"


class InvalidComparisonError(InvalidError):
    """The two evaluations cannot be compared."""

    code = "invalid_comparison"
    title = "The comparison is not valid"
    next_step = "Compare evaluations on the same dataset; `hint` says what differs."
