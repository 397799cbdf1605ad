"""What an error of the system means when it comes from a base model's files."""

from __future__ import annotations

import errno

from app.domain.lifecycle import FailureCode

#: Errors for want of something that other processes of the machine use.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: Errors of a disk or a file server, which may be gone at the next attempt or on another machine.
_OF_THE_STORAGE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)


def failure_of_unreadable_model(number: int | None) -> FailureCode | None:
    """Return the failure for an error number; None if the machine is to blame, not the model."""
    if number is None or number in _OF_THE_MACHINE:
        return None
    is_transient = number in _OF_THE_STORAGE
    return FailureCode.HUB_UNAVAILABLE if is_transient else FailureCode.MODEL_UNSUPPORTED
