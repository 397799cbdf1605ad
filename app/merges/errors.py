"""Refusals of merged exports."""

from __future__ import annotations

from app.core.errors import ConflictError, NotFoundError


class MergeNotFoundError(NotFoundError):
    """Nobody asked for a merged export of this adapter."""

    code = "merge_not_found"
    title = "No merged export"


class MergeInexactError(ConflictError):
    """Merging into quantised weights moved scores by up to 0.25: not the same model."""

    code = "merge_inexact"
    title = "This adapter cannot be merged exactly"


class AlreadyMergedError(ConflictError):
    """A merged export is no adapter any more, so there is nothing to merge."""

    code = "already_merged"
    title = "This is a merged export"
    next_step = "Download it: it is an ordinary sequence-classification model."
