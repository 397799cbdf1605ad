"""Finish an evaluation: store its score files and its result."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import update

from app.core.database import transaction
from app.domain.lifecycle import DesiredState, JobStatus
from app.domain.progress import Evaluated
from app.job_queue import kinds
from app.job_queue.events import Event
from app.job_queue.lease import WriteContext
from app.job_queue.transitions import transition
from app.models import Evaluation
from app.storage.artifact_files import file_rows, store


def publish(context: WriteContext, directory: Path, evaluated: Evaluated) -> None:
    """Store the score files and finish the job with the result.

    Raises:
        ArtifactDamagedError, ArtifactTooLargeError: nothing was published.
        LeaseLostError: nothing was published; another worker has the job.
    """
    blobs = store(context.engine, context.settings, directory, evaluated.files)
    evaluation_id = kinds.EVALUATE.public_id(context.job_id)
    with transaction(context.engine) as session:
        transition(
            session,
            context.lease,
            JobStatus.SUCCEEDED,
            [Event("succeeded", "The evaluation is done.", {"evaluation_id": evaluation_id})],
            result=evaluated.result,
            desired=DesiredState.RUN,  # a cancel that arrives now is too late
        )
        session.add_all(file_rows(evaluation_id, blobs))
        session.execute(
            update(Evaluation)
            .where(Evaluation.id == evaluation_id)
            .values(bytes=sum(blob.size for blob in blobs.values()))
        )
