"""Errors of score batches."""

from __future__ import annotations

from app.core.errors import ConflictError, InvalidError, NotFoundError


class ScoreBatchNotFoundError(NotFoundError):
    """This tenant has no score batch with this id."""

    code = "score_batch_not_found"
    title = "No such score batch"


class ScoreBatchUnfinishedError(ConflictError):
    """The batch has no scores, because it has not succeeded."""

    code = "score_batch_unfinished"
    title = "The score batch has no scores"
    next_step = "Wait until its status is `succeeded`: `GET /v1/score/batches/{id}?wait=60`."


class ScoreBatchLiveError(ConflictError):
    """The batch has not finished."""

    code = "score_batch_live"
    title = "The score batch is not finished"
    next_step = "Cancel the batch or wait until it finishes, then delete it."


class ScoreBatchFinishedError(ConflictError):
    """The batch has finished and can no longer be cancelled."""

    code = "score_batch_finished"
    title = "The score batch is finished"
    next_step = "Download its scores, or request another batch."


class InvalidScoreBatchError(InvalidError):
    """The adapter cannot score the dataset."""

    code = "invalid_score_batch"
    title = "The score batch is not valid"
