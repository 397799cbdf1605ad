"""Errors of scoring."""

from __future__ import annotations

from app.core.errors import (
    ConflictError,
    FieldProblem,
    InvalidError,
    PreconditionError,
    UnavailableError,
)


class ItemTooLongError(InvalidError):
    """A text has more tokens than the adapter or `max_length` allows. Nothing was scored."""

    code = "item_too_long"
    title = "A text is too long"
    next_step = "Shorten the named text, raise `max_length`, or set `truncation`."


class ItemInvalidError(InvalidError):
    """A text does not suit the adapter, for example messages for an adapter of plain text."""

    code = "item_invalid"
    title = "A text cannot be scored"
    next_step = "Correct the named text. Nothing was scored."


class EnsembleInvalidError(InvalidError):
    """The members of an ensemble cannot be combined: they need one base model and statistics."""

    code = "ensemble_invalid"
    title = "The adapters do not form an ensemble"
    next_step = "Use adapters of one base model that were trained with held-out pairs."


class NoStatisticsError(InvalidError):
    """`normalize: zscore` needs reward statistics on held-out pairs, which the adapter lacks."""

    code = "no_statistics"
    title = "The adapter has no reward statistics"
    next_step = "Use `normalize: none`, or train with an evaluation dataset."


class AdapterNotVerifiedError(ConflictError):
    """The scorer computes other scores for the adapter's probes than the training did."""

    code = "adapter_not_verified"
    title = "The adapter does not give its certified scores"
    next_step = "Send the `detail` to the operator: the base model's files may have changed."


class AdapterUnusableError(ConflictError):
    """The adapter cannot be loaded: its base model is gone, or it is a merged model."""

    code = "adapter_unusable"
    title = "The adapter cannot be used for scoring"
    next_step = "Follow the `detail`. Score with the adapter that a merged model was made from."


class ScoreSpecChangedError(PreconditionError):
    """The current `score_spec` of the model differs from `If-Score-Spec`."""

    code = "score_spec_changed"
    title = "The scores would not be comparable"
    next_step = "Read the current `score_spec` from a response without the header, and decide."


class ScorerSaturatedError(UnavailableError):
    """The queue of scoring requests is full."""

    code = "scorer_saturated"
    title = "Too many scoring requests wait"
    next_step = "Retry after `Retry-After` seconds, or ask the operator for more scorers."


class ScorerUnavailableError(UnavailableError):
    """No scorer was available during the time for which a request is held."""

    code = "scorer_unavailable"
    title = "No scorer is available"
    next_step = "Retry after `Retry-After` seconds. The operator starts one with `plaudit scorer`."


def text_error(error: type[InvalidError], detail: str, loc: str) -> InvalidError:
    """Return the error for a text, with its place in the request."""
    hint = error.next_step
    return error(
        f"{loc}: {detail}", hint=hint, problems=[FieldProblem(loc, error.code, detail, hint)]
    )
