"""Map operating system errors on a base model's files to failure codes."""

from __future__ import annotations

import errno

from app.domain.lifecycle import FailureCode

#: Errors of exhausted resources that other processes of the machine share.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: Errors of a disk or a file server, which may not occur on the next attempt or another machine.
_OF_THE_STORAGE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)


def failure_of_unreadable_model(number: int | None) -> FailureCode | None:
    """Return the failure code for an error number, or None if the machine causes the error."""
    if number is None or number in _OF_THE_MACHINE:
        return None
    is_transient = number in _OF_THE_STORAGE
    return FailureCode.HUB_UNAVAILABLE if is_transient else FailureCode.MODEL_UNSUPPORTED
