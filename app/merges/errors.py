"""Errors of merged exports."""

from __future__ import annotations

from app.core.errors import ConflictError, NotFoundError


class MergeNotFoundError(NotFoundError):
    """No merged export of this adapter was requested."""

    code = "merge_not_found"
    title = "No merged export"
    next_step = "Request one: `POST /v1/adapters/{id}/merge`."


class MergeInexactError(ConflictError):
    """The base model is quantised, so that a merge would change scores (by up to 0.25 in tests)."""

    code = "merge_inexact"
    title = "This adapter cannot be merged exactly"
    next_step = "Load the adapter with PEFT on the same quantised base model."


class AlreadyMergedError(ConflictError):
    """The adapter is itself a merged export, so there is nothing to merge."""

    code = "already_merged"
    title = "This is a merged export"
    next_step = "Download it: it is a full sequence-classification model."
