"""Check that a base model's files are those of a plan or an adapter."""

from __future__ import annotations

from pathlib import Path

from app.domain.lifecycle import FailureCode
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import model_digest


def check_base_model_unchanged(
    order: WorkOrder, expected: str, *, actual: str | None = None
) -> None:
    """Compare the digest of the base model's files with ``expected``.

    ``actual`` is the digest of the files if the caller has computed it. Otherwise, files of a Hub
    revision are trusted without hashing them: a revision never changes, and hashing takes a second
    or two per gigabyte.

    Raises:
        TrainerError: model_changed when the digests differ.
    """
    if actual is None and order.revision is None:
        actual = model_digest(Path(order.model_dir))
    if actual not in (None, expected):
        raise TrainerError(
            FailureCode.MODEL_CHANGED,
            f"the files of {order.model_name} have changed: their digest is {actual}, and was "
            f"{expected} when the plan or adapter was made. A catalogue entry describes one set of "
            "files: give the new files an entry with another id, or set the entry's sha256",
        )
