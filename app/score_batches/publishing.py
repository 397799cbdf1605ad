"""End a score batch: store its file of scores and its result."""

from __future__ import annotations

from pathlib import Path

from app.core.database import transaction
from app.domain.lifecycle import DesiredState, JobStatus
from app.domain.progress import Evaluated
from app.job_queue.events import Event
from app.job_queue.lease import WriteContext
from app.job_queue.transitions import transition
from app.storage.artifact_files import file_rows, store


def publish(context: WriteContext, directory: Path, scored: Evaluated) -> None:
    """Store the scores and end the job with the result.

    Raises:
        ArtifactDamagedError, ArtifactTooLargeError: nothing was published.
        LeaseLostError: nothing was published; another worker has the job.
    """
    blobs = store(context.engine, context.settings, directory, scored.files)
    with transaction(context.engine) as session:
        transition(
            session,
            context.lease,
            JobStatus.SUCCEEDED,
            [Event("succeeded", "The dataset is scored.", {"score_batch_id": context.job_id})],
            result=scored.result,
            desired=DesiredState.RUN,  # the work is done: success wins over a late cancel
        )
        session.add_all(file_rows(context.job_id, blobs))
