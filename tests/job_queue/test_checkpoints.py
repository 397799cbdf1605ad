"""Checkpoints: kept ones, ones that count as progress, and dropped ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, update

from app.adapters import publishing
from app.core.database import transaction
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState, FailureCode
from app.job_queue import checkpoints, transitions, worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import AttemptFailure
from app.models import BlobChunk, Checkpoint, StoredFile
from app.storage import artifact_files
from app.storage.artifact_files import ArtifactDamagedError
from tests.job_queue.factories import (
    TENANT,
    claim,
    count_rows,
    lose_lease,
    queue_job,
    read_job,
    save_checkpoint,
    update_job,
    write_adapter,
    write_checkpoint,
)

End = Callable[[WriteContext, Path], None]
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights!" * 200_000}


def steps_of(engine: Engine, job_id: str) -> list[int]:
    return [checkpoint.step for checkpoint, _ in checkpoints.list_with_files(engine, job_id)]


def test_last_two_checkpoints_and_the_best_are_kept(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    for step in (1, 2, 3, 4, 5):
        save_checkpoint(context, tmp_path, step, is_best=step in (1, 2))
    assert steps_of(engine, context.job_id) == [5, 4, 2]
    newest, files = checkpoints.list_with_files(engine, context.job_id)[0]
    assert read_job(engine, context.job_id).checkpoint_id == newest.id
    assert {file.name for file in files} == {"state.bin", "manifest.json"}
    assert count_rows(engine, StoredFile) == 6


def test_checkpoints_are_ordered_by_attempt_and_not_by_id(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    save_checkpoint(context, tmp_path, 10)
    with transaction(engine) as session:  # made on a host whose clock was a year ahead
        session.execute(update(Checkpoint).values(id="ckpt_ffffffffffff"))
    lose_lease(context)
    save_checkpoint(claim(engine, settings), tmp_path, 5)
    assert steps_of(engine, context.job_id) == [5, 10]


def test_only_a_newer_checkpoint_is_progress(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    def charged() -> tuple[int, int, int]:
        job = read_job(engine, context.job_id)
        return job.failures, job.crashes, job.stalls

    update_job(engine, context.job_id, failures=2, crashes=2, stalls=2)
    save_checkpoint(context, tmp_path, 4)
    assert charged() == (0, 0, 0)
    update_job(engine, context.job_id, failures=2, crashes=2, stalls=2)
    save_checkpoint(context, tmp_path, 4)
    save_checkpoint(context, tmp_path, 3)
    assert charged() == (2, 2, 2)


def test_job_fails_after_attempts_without_a_newer_checkpoint(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    job_id = queue_job(engine)
    for number in range(settings.max_stalls):
        lose_lease(claim(engine, settings, f"host-a/0:{number}"))
    job = read_job(engine, job_id)
    assert (job.status, job.failure_code) == ("failed", "poison")
    assert job.failure_detail


def test_checkpoint_whose_files_are_removed_meanwhile_is_stored_completely(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    @event.listens_for(engine, "commit")
    def _remove(_: object) -> None:
        """Delete the files, as the trainer does once it has two newer checkpoints."""
        shutil.rmtree(tmp_path / "1-5", ignore_errors=True)

    save_checkpoint(context, tmp_path, 5)
    assert not (tmp_path / "1-5").exists()
    ((_, files),) = checkpoints.list_with_files(engine, context.job_id)
    assert len(files) > 1


def test_checkpoint_with_another_hash_is_refused(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    saved = write_checkpoint(tmp_path / "c", 5)
    (tmp_path / "c" / "state.bin").write_bytes(b"something else")
    with pytest.raises(ArtifactDamagedError):
        checkpoints.save(context, tmp_path / "c", saved)
    assert read_job(engine, context.job_id).checkpoint_id is None


def test_damaged_chunk_is_noticed_when_it_is_read(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    save_checkpoint(context, tmp_path, 5)
    ((_, files),) = checkpoints.list_with_files(engine, context.job_id)
    for file in files:
        artifact_files.fetch(engine, file.blob_id, file.size, tmp_path / file.name, file.sha256)
        assert (tmp_path / file.name).read_bytes() == (tmp_path / "1-5" / file.name).read_bytes()
    with transaction(engine) as session:
        session.execute(update(BlobChunk).values(data=b"x" * files[-1].size))
    with pytest.raises(ArtifactDamagedError):
        artifact_files.fetch(
            engine, files[-1].blob_id, files[-1].size, tmp_path / "x", files[-1].sha256
        )


def succeed(context: WriteContext, directory: Path) -> None:
    publishing.publish(context, directory, write_adapter(directory, FILES))


def fail(context: WriteContext, directory: Path) -> None:
    worker_api.fail(context, AttemptFailure(FailureCode.TIMED_OUT, "too long"))


def fail_long_ago(context: WriteContext, directory: Path) -> None:
    fail(context, directory)
    update_job(context.engine, context.job_id, finished_at=1000)


def stop(desired: DesiredState, **options: bool) -> End:
    def end(context: WriteContext, directory: Path) -> None:
        with transaction(context.engine) as session:
            transitions.set_desired_state(session, TENANT, context.job_id, desired, **options)
        worker_api.release(context, "requested")

    return end


def keep_running(context: WriteContext, directory: Path) -> None:
    worker_api.heartbeat(context)


@pytest.mark.parametrize(
    ("end", "is_kept"),
    [
        pytest.param(succeed, False, id="succeeded"),
        pytest.param(fail, True, id="failed"),
        pytest.param(fail_long_ago, False, id="failed long ago"),
        pytest.param(stop(DesiredState.CANCEL), False, id="cancelled"),
        pytest.param(stop(DesiredState.CANCEL, keep_checkpoint=True), True, id="cancelled, kept"),
        pytest.param(stop(DesiredState.PAUSE), True, id="paused"),
        pytest.param(keep_running, True, id="running"),
    ],
)
def test_checkpoints_of_finished_jobs_are_dropped(
    engine: Engine,
    context: WriteContext,
    tmp_path: Path,
    end: End,
    is_kept: bool,
) -> None:
    save_checkpoint(context, tmp_path, 5)
    end(context, tmp_path / "adapter")
    assert checkpoints.drop_finished(engine) == (not is_kept)
    assert (read_job(engine, context.job_id).checkpoint_id is not None) == is_kept
    assert (count_rows(engine, Checkpoint) == 1) == is_kept
