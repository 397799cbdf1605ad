"""Fetch a dataset from the hub, check its rows and store it."""

from __future__ import annotations

from app.audit.log import Actor
from app.base_models.catalogue import HubSource
from app.core.errors import QuotaError
from app.datasets.hub_files import HubSplit, download_split, look_up_split
from app.datasets.publishing import Sent, Steps, store_files
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.several_files import SourceFile, files_digest
from app.domain.lifecycle import FailureCode, Phase
from app.imports.schemas import ImportCreate
from app.models import Dataset
from worker.supervisor.attempt import JobFailedError
from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Download the files of the split at one commit, and make a dataset of them."""
    attempt = steps.attempt
    body = ImportCreate.model_validate(steps.job.spec)
    repo, _, revision = body.source.removeprefix("hub:").partition("@")
    source = HubSource(repo, revision)
    steps.set_phase(Phase.FETCHING)

    def download() -> tuple[HubSplit, list[SourceFile]]:
        split = look_up_split(attempt.settings, source, body.config, body.split)
        directory = attempt.directory / "source"
        return split, download_split(
            attempt.settings, source, split, directory, attempt.check_interrupt
        )

    split, files = steps.run_aside(download)
    steps.set_phase(Phase.CHECKING)
    sent = Sent(
        steps.job.name,
        files[0].file_format,
        body.read_options(),
        files_digest(files),
        split.size,
        {"origin": f"hub:{repo}@{split.commit}#{body.split}"},
    )
    dataset = _stored(steps, sent, files)
    steps.complete({"dataset_id": dataset.id, "revision": split.commit})


def _stored(steps: JobSteps, sent: Sent, files: list[SourceFile]) -> Dataset:
    attempt, actor = steps.attempt, Actor(steps.job.tenant_id)
    conversion = Steps(attempt.check_interrupt)
    try:
        dataset, _ = steps.retry(
            lambda: store_files(attempt.engine, attempt.settings, actor, sent, files, conversion)
        )
    except InvalidDatasetError as error:
        rows = [f"{row.sentence()}; {row.hint}" for row in error.rows]
        raise JobFailedError(
            FailureCode.DATASET_INVALID, "\n".join([error.detail, *rows])
        ) from None
    except QuotaError as error:
        raise JobFailedError(FailureCode.QUOTA_EXCEEDED, error.detail) from None
    return dataset
