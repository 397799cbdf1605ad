"""Upload an adapter's files to a repository of the hub, in one commit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils.tqdm import disable_progress_bars
from sqlalchemy import select

from app.base_models.catalogue import HubSource
from app.base_models.errors import BadSnapshotError, ModelNotFoundError
from app.base_models.hub import plain_token, translated_errors
from app.core.database import reader, transaction
from app.domain.lifecycle import FailureCode, Phase
from app.models import StoredFile
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, JobFailedError
from worker.supervisor.job_steps import JobSteps


def run(steps: JobSteps) -> None:
    """Create the repository if needed, and commit the files to its branch main."""
    attempt, spec = steps.attempt, steps.job.spec
    steps.set_phase(Phase.FETCHING)
    files = steps.retry(lambda: _fetch(attempt, spec["adapter_id"]))
    steps.set_phase(Phase.PUBLISHING)
    commit = steps.run_aside(
        lambda: _push(attempt, spec["repo"], spec["adapter_id"], files, private=spec["private"])
    )
    steps.complete({"commit": commit})


def _fetch(attempt: Attempt, adapter_id: str) -> list[Path]:
    directory = attempt.directory / "adapter"
    directory.mkdir(exist_ok=True)
    with transaction(reader(attempt.engine)) as session:
        files = list(
            session.scalars(
                select(StoredFile)
                .where(StoredFile.owner_id == adapter_id)
                .order_by(StoredFile.name)
            )
        )
    if not files:
        raise JobFailedError(
            FailureCode.SOURCE_NOT_FOUND, "the adapter was deleted before it was pushed"
        )
    for file in files:
        job_inputs.fetch_file(attempt.engine, file, directory)
    return [directory / file.name for file in files]


def _push(attempt: Attempt, repo: str, adapter_id: str, files: list[Path], *, private: bool) -> str:
    settings = attempt.settings
    api = HfApi(endpoint=settings.hub_endpoint, token=plain_token(settings.hub_token))
    disable_progress_bars()
    try:
        with translated_errors(HubSource(repo, "main")), ExitStack() as stack:
            # Given open files, the client uploads large ones by LFS, which every hub has. Given
            # paths it would use Xet, which needs another server and a cache in the home directory.
            operations = [
                CommitOperationAdd(file.name, stack.enter_context(file.open("rb")))
                for file in files
            ]
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.create_commit(repo, operations, commit_message=f"Upload {adapter_id}")
    except (ModelNotFoundError, BadSnapshotError) as error:
        raise JobFailedError(FailureCode.SOURCE_NOT_FOUND, error.detail) from None
    return str(done.oid)
