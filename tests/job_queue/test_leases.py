"""What a worker may do with a job: checkpoints, adapters, failures; on both databases."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, func, select, text, update

from app.adapters import publishing
from app.adapters.archive import archive_digest
from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FAILURES, DesiredState, FailureCode
from app.domain.progress import FileEntry, Noted, Reported, Stepped
from app.domain.warnings import WarningCode
from app.job_queue import checkpoints, kinds, reconciler, transitions, worker_api
from app.job_queue.lease import LeaseLostError, WriteContext
from app.job_queue.worker_api import AttemptFailure, Progress
from app.models import Adapter, Blob, BlobChunk, Checkpoint, Job, JobLog, JobMetric, StoredFile
from app.storage import artifact_files, blobs
from app.storage.artifact_files import ArtifactDamagedError, ArtifactTooLargeError
from app.storage.blobs import CHUNK_BYTES, BlobWriter, StoredBlob
from tests.job_queue.making import (
    QUEUE,
    TENANT,
    events_of,
    look,
    queue_job,
    write_adapter,
    write_checkpoint,
    write_files,
)
from tests.services import wait_until

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights!" * 200_000}


@pytest.fixture
def context(engine: Engine, settings: Settings) -> WriteContext:
    """The lease on a fresh job."""
    queue_job(engine)
    return claim(engine, settings)


def claim(engine: Engine, settings: Settings, owner: str = "host-a/0:1") -> WriteContext:
    claimed = worker_api.claim(engine, settings, QUEUE, owner, "host")
    assert claimed is not None
    return claimed.context


def change(engine: Engine, job_id: str, **values: Any) -> None:
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def lose(context: WriteContext) -> None:
    """The lease runs out and a sweep takes the job back."""
    engine, settings = context.engine, context.settings
    change(engine, context.job_id, lease_expires_at=now_ms() - 3_600_000)
    assert reconciler.requeue_lost(engine, settings)
    change(engine, context.job_id, run_after=0)


def save(context: WriteContext, at: Path, step: int, **more: Any) -> None:
    saved = write_checkpoint(at / f"{context.lease.attempt}-{step}", step, **more)
    checkpoints.save(context, at / f"{context.lease.attempt}-{step}", saved)


def steps_of(engine: Engine, job_id: str) -> list[int]:
    return [checkpoint.step for checkpoint, _ in checkpoints.list_with_files(engine, job_id)]


def count(engine: Engine, table: type[Any]) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


# -- who holds a row -------------------------------------------------------------------------


def test_row_of_a_worker_that_froze_while_it_wrote_is_swept_once_the_server_took_it_back(
    engine: Engine, settings: Settings, context: WriteContext
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("needs PostgreSQL, which ends a transaction that is silent")
    change(engine, context.job_id, lease_expires_at=now_ms() - 3_600_000)
    with engine.connect() as frozen:
        limit = frozen.scalar(text("SHOW idle_in_transaction_session_timeout"))
        assert limit == "30s"  # far below the lease of a worker, whose job waits for it
        frozen.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
        frozen.execute(update(Job).where(Job.id == context.job_id).values(phase="training"))
        assert not reconciler.requeue_lost(engine, settings)  # passed over, not waited for
        wait_until("the server to end it", lambda: bool(reconciler.requeue_lost(engine, settings)))
        frozen.invalidate()
    assert look(engine, context.job_id).status == "queued"


# -- what a trainer says ---------------------------------------------------------------------


def test_record_writes_steps_notes_and_reports_in_one_go(
    engine: Engine, settings: Settings, context: WriteContext
) -> None:
    warning = Noted(
        code=WarningCode.PAIRS_DROPPED, message="3 pairs were left out", is_warning=True
    )
    for step in (1, 2):
        stepped = Stepped(step=step, total_steps=4, epoch=0.5, metrics={"train/loss": 1 / step})
        report = Reported(name="memory", document={"step": step})
        worker_api.record_progress(context, Progress("training", [stepped], [warning], [report]))
    job = look(engine, context.job_id)
    assert (job.phase, job.step, job.total_steps, job.rate_step) == ("training", 2, 4, 1)
    assert job.warnings == [{"code": "pairs_dropped", "message": warning.message}]
    assert count(engine, JobMetric) == 2
    assert [e.type for e in events_of(engine, context.job_id)].count("pairs_dropped") == 2


def test_log_written_twice_is_there_once(
    engine: Engine, settings: Settings, context: WriteContext
) -> None:
    for _ in range(2):  # the answer to the first commit was lost
        worker_api.record_log(context, 0, "a line\n")
    assert count(engine, JobLog) == 1


def test_worker_that_lost_its_lease_writes_nothing_at_all(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    lose(context)
    successor = claim(engine, settings, "host-b/0:1")
    adapter = write_adapter(tmp_path / "adapter", FILES)
    stepped = Stepped(step=1, total_steps=2, epoch=1, metrics={"train/loss": 1.0})
    for write in (
        lambda: worker_api.heartbeat(context),
        lambda: worker_api.record_progress(context, Progress(steps=[stepped])),
        lambda: worker_api.record_log(context, 0, "late"),
        lambda: save(context, tmp_path, 5),
        lambda: publishing.publish(context, tmp_path / "adapter", adapter),
        lambda: worker_api.complete(context, {}),
        lambda: worker_api.fail(context, AttemptFailure(FailureCode.NAN_LOSS, "late")),
        lambda: worker_api.release(context, "late"),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert worker_api.read_desired_state(context) is None
    assert worker_api.read_desired_state(successor) == DesiredState.RUN
    for table in (JobMetric, JobLog, Checkpoint, Adapter, StoredFile):
        assert count(engine, table) == 0
    job = look(engine, context.job_id)
    assert (job.status, job.attempt, job.failure_code) == ("running", 2, None)
    assert worker_api.heartbeat(successor) == DesiredState.RUN


# -- checkpoints -----------------------------------------------------------------------------


def test_last_two_checkpoints_and_the_best_are_kept(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    for step in (1, 2, 3, 4, 5):
        save(context, tmp_path, step, is_best=step in (1, 2))
    assert steps_of(engine, context.job_id) == [5, 4, 2]
    newest, files = checkpoints.list_with_files(engine, context.job_id)[0]
    assert look(engine, context.job_id).checkpoint_id == newest.id
    assert {file.name for file in files} == {"state.bin", "manifest.json"}
    assert count(engine, StoredFile) == 6


def test_checkpoints_are_ordered_by_attempt_not_by_a_worker_s_clock(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    save(context, tmp_path, 10)
    with transaction(engine) as session:  # made on a host whose clock was a year ahead
        session.execute(update(Checkpoint).values(id="ckpt_ffffffffffff"))
    lose(context)
    save(claim(engine, settings), tmp_path, 5)
    assert steps_of(engine, context.job_id) == [5, 10]


def test_only_a_newer_checkpoint_is_progress(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    def charged() -> tuple[int, int, int]:
        job = look(engine, context.job_id)
        return job.failures, job.crashes, job.stalls

    change(engine, context.job_id, failures=2, crashes=2, stalls=2)
    save(context, tmp_path, 4)
    assert charged() == (0, 0, 0)
    change(engine, context.job_id, failures=2, crashes=2, stalls=2)
    save(context, tmp_path, 4)
    save(context, tmp_path, 3)
    assert charged() == (2, 2, 2)


def test_attempts_without_a_newer_checkpoint_end_the_job(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    job_id = queue_job(engine)
    for number in range(settings.max_stalls):
        lose(claim(engine, settings, f"host-a/0:{number}"))
    job = look(engine, job_id)
    assert (job.status, job.failure_code) == ("failed", "poison")
    assert job.failure_detail


def test_checkpoint_that_is_removed_while_it_is_stored_is_stored_whole(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    @event.listens_for(engine, "commit")
    def _remove(_: object) -> None:
        """As the trainer does, once it has made two newer ones."""
        shutil.rmtree(tmp_path / "1-5", ignore_errors=True)

    save(context, tmp_path, 5)
    assert not (tmp_path / "1-5").exists()
    ((_, files),) = checkpoints.list_with_files(engine, context.job_id)
    assert len(files) > 1


def test_checkpoint_that_is_not_what_was_said_is_refused(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    saved = write_checkpoint(tmp_path / "c", 5)
    (tmp_path / "c" / "state.bin").write_bytes(b"something else")
    with pytest.raises(ArtifactDamagedError):
        checkpoints.save(context, tmp_path / "c", saved)
    assert look(engine, context.job_id).checkpoint_id is None


def test_damaged_row_is_noticed_when_it_is_fetched(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    save(context, tmp_path, 5)
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


@pytest.mark.parametrize(
    ("end", "is_kept"),
    [("succeed", False), ("fail", True), ("fail long ago", False), ("cancel", False),
     ("cancel and keep", True), ("pause", True), ("run", True)],
)  # fmt: skip
def test_ended_job_s_checkpoints_are_collected(
    engine: Engine,
    settings: Settings,
    context: WriteContext,
    tmp_path: Path,
    end: str,
    is_kept: bool,
) -> None:
    save(context, tmp_path, 5)
    with transaction(engine) as session:
        if end == "pause":
            transitions.set_desired_state(session, TENANT, context.job_id, DesiredState.PAUSE)
        if end.startswith("cancel"):
            keep = end == "cancel and keep"
            transitions.set_desired_state(
                session, TENANT, context.job_id, DesiredState.CANCEL, keep_checkpoint=keep
            )
    if end == "succeed":
        adapter = write_adapter(tmp_path / "adapter", FILES)
        publishing.publish(context, tmp_path / "adapter", adapter)
    elif end.startswith("fail"):
        worker_api.fail(context, AttemptFailure(FailureCode.TIMED_OUT, "too long"))
        if end == "fail long ago":
            change(engine, context.job_id, finished_at=1000)
    elif end != "run":
        worker_api.release(context, "asked")
    assert checkpoints.drop_finished(engine) == (not is_kept)
    assert (look(engine, context.job_id).checkpoint_id is not None) == is_kept
    assert (count(engine, Checkpoint) == 1) == is_kept


# -- the end ---------------------------------------------------------------------------------


def test_adapter_is_published_whole_with_the_job_s_end(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", FILES)
    adapter_id = publishing.publish(context, tmp_path / "adapter", adapter)
    job = look(engine, context.job_id)
    assert (job.status, job.adapter_id, job.lease_owner) == ("succeeded", adapter_id, None)
    with transaction(engine) as session:
        files = session.scalars(select(StoredFile).where(StoredFile.owner_id == adapter_id)).all()
        row = session.get_one(Adapter, adapter_id)
    stored = {f.name: b"".join(blobs.read_range(engine, f.blob_id, 0, f.size)) for f in files}
    assert stored == FILES
    found = {f.name: StoredBlob(f.blob_id, f.sha256, f.size) for f in files}
    assert archive_digest(engine, found) == (row.archive_sha256, row.archive_bytes)
    assert events_of(engine, context.job_id)[-1].type == "succeeded"


def test_success_wins_over_a_late_cancel(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with transaction(engine) as session:
        transitions.set_desired_state(session, TENANT, context.job_id, DesiredState.CANCEL)
    publishing.publish(context, tmp_path / "adapter", adapter)
    assert look(engine, context.job_id).status == "succeeded"


def test_adapter_over_the_operator_s_limit_is_refused_before_a_byte_is_stored(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"max_artifact_bytes": 1000})
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with pytest.raises(ArtifactTooLargeError, match="1000"):
        publishing.publish(replace(context, settings=small), tmp_path / "adapter", adapter)
    assert count(engine, Blob) == 0


def test_adapter_that_does_not_read_back_is_not_published(
    engine: Engine,
    settings: Settings,
    context: WriteContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damage(*arguments: Any) -> bool:
        with transaction(engine) as session:
            session.execute(update(BlobChunk).where(BlobChunk.seq == 0).values(data=b"rot"))
        return blobs.is_intact(*arguments)

    monkeypatch.setattr(publishing, "is_intact", damage)
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with pytest.raises(ArtifactDamagedError):
        publishing.publish(context, tmp_path / "adapter", adapter)
    assert look(engine, context.job_id).status == "running"
    assert count(engine, Adapter) == 0


def test_inspection_ends_with_its_document(engine: Engine, settings: Settings) -> None:
    job_id = queue_job(engine, kind=kinds.INSPECT.name)
    worker_api.complete(claim(engine, settings), {"facts": {"a": 1}})
    job = look(engine, job_id)
    assert (job.status, job.result) == ("succeeded", {"facts": {"a": 1}})


@pytest.mark.parametrize("code", list(FailureCode))
def test_failure_is_tried_again_exactly_when_its_code_says_so(
    engine: Engine, settings: Settings, context: WriteContext, code: FailureCode
) -> None:
    status = worker_api.fail(context, AttemptFailure(code, "why", step=3, avoid_host="host"))
    job = look(engine, context.job_id)
    assert status == job.status == ("queued" if FAILURES[code].is_retryable else "failed")
    assert (job.failure_code, job.failure_step, job.avoid_host) == (code, 3, "host")
    assert (job.failures, job.stalls) == (1, 1)


def test_failure_without_a_step_was_at_the_last_step_told(
    engine: Engine, settings: Settings, context: WriteContext
) -> None:
    steps = [Stepped(step=n, total_steps=10, epoch=n / 10, metrics={}) for n in (1, 2)]
    worker_api.record_progress(context, Progress(steps=steps))
    worker_api.fail(context, AttemptFailure(FailureCode.NAN_LOSS, "loss is nan"))
    assert look(engine, context.job_id).failure_step == 2
    assert events_of(engine, context.job_id)[-1].data["step"] == 2


def test_failures_in_a_row_are_capped(engine: Engine, settings: Settings) -> None:
    job_id = queue_job(engine)
    for number in range(settings.max_failures):
        change(engine, job_id, run_after=0)
        context = claim(engine, settings, f"host-a/0:{number}")
        worker_api.fail(context, AttemptFailure(FailureCode.HUB_UNAVAILABLE, "503"))
    assert look(engine, job_id).status == "failed"


def test_backoff_grows_with_failures_not_with_attempts(settings: Settings) -> None:
    longest = [
        max(worker_api.retry_delay_ms(settings, n) for _ in range(200)) for n in (0, 1, 2, 30)
    ]
    assert longest[0] <= 10_000 < longest[1] <= 20_000 < longest[2] <= 40_000
    assert 100_000 < longest[3] <= 900_000


# -- blobs -----------------------------------------------------------------------------------


def store(engine: Engine, data: bytes) -> StoredBlob:
    with BlobWriter(engine) as writer:
        for start in range(0, len(data), 300_000):
            writer.write(data[start : start + 300_000])
        return writer.finish()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2_500_000])
def test_bytes_come_back_as_they_were(engine: Engine, size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    blob = store(engine, data)
    assert (blob.size, blob.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert b"".join(blobs.read_range(engine, blob.id, 0, size)) == data
    assert blobs.is_intact(engine, blob)
    for start, stop in ((0, 10), (size // 2, size), (CHUNK_BYTES - 5, CHUNK_BYTES + 5)):
        if stop <= size:
            assert b"".join(blobs.read_range(engine, blob.id, start, stop)) == data[start:stop]


def test_same_bytes_are_stored_once(engine: Engine) -> None:
    data = b"same" * 400_000
    assert store(engine, data) == store(engine, data)
    assert count(engine, Blob) == 1
    assert count(engine, BlobChunk) == 2


def test_missing_chunk_is_noticed(engine: Engine) -> None:
    blob = store(engine, b"x" * 2_500_000)
    with transaction(engine) as session:
        session.execute(delete(BlobChunk).where(BlobChunk.seq == 1))
    assert not blobs.is_intact(engine, blob)
    with pytest.raises(LookupError):
        list(blobs.read_range(engine, blob.id, 0, blob.size))


def test_interrupted_writer_takes_its_bytes_out_again(engine: Engine) -> None:
    def upload() -> None:
        with BlobWriter(engine) as writer:
            writer.write(b"x" * 2_500_000)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        upload()
    assert count(engine, Blob) == count(engine, BlobChunk) == 0


def age(engine: Engine, blob: StoredBlob) -> None:
    with transaction(engine) as session:
        session.execute(update(Blob).where(Blob.id == blob.id).values(created_at=1000))


def test_old_blob_that_nothing_names_is_collected_and_a_named_one_is_not(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    save(context, tmp_path, 5)
    orphan, young = store(engine, b"orphan" * 400_000), store(engine, b"young")
    with transaction(engine) as session:
        session.execute(update(Blob).where(Blob.id != young.id).values(created_at=1000))
    assert blobs.collect_garbage(engine) == 1
    with transaction(engine) as session:
        assert session.get(Blob, orphan.id) is None
        assert session.scalar(select(func.count()).where(BlobChunk.blob_id == orphan.id)) == 0
    assert blobs.is_intact(engine, young)
    assert count(engine, StoredFile) == 2


def test_writer_killed_halfway_is_collected_later(engine: Engine) -> None:
    writer = BlobWriter(engine)
    writer.__enter__()
    writer.write(b"x" * 2_500_000)  # and the process is gone
    assert blobs.collect_garbage(engine) == 0
    with transaction(engine) as session:
        session.execute(update(Blob).values(created_at=1000))
    assert blobs.collect_garbage(engine) == 1
    assert count(engine, BlobChunk) == 0


def test_old_bytes_stored_anew_are_young_again(engine: Engine) -> None:
    blob = store(engine, b"again")
    age(engine, blob)
    assert store(engine, b"again").id == blob.id
    assert blobs.collect_garbage(engine) == 0
    assert blobs.is_intact(engine, blob)


def test_two_writers_of_the_same_bytes_end_with_one_blob(engine: Engine) -> None:
    with BlobWriter(engine) as one, BlobWriter(engine) as other:
        one.write(b"twins")
        other.write(b"twins")
        assert one.finish() == other.finish()
    assert count(engine, Blob) == 1


def test_files_of_one_package_may_share_their_bytes(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    entries = write_files(tmp_path / "twins", {"a.bin": b"same", "b.bin": b"same"})
    assert all(isinstance(entry, FileEntry) for entry in entries)
    adapter = write_adapter(tmp_path / "twins", {"a.bin": b"same", "b.bin": b"same"})
    publishing.publish(context, tmp_path / "twins", adapter)
    assert count(engine, Blob) == 1
    assert count(engine, StoredFile) == 2
