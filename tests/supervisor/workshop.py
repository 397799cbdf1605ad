"""A database with a dataset and a base model, and workers in this process or in others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
from sqlalchemy import Engine, select

from app.core.database import new_id, reader, transaction
from app.core.settings import Settings
from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.lifecycle import TERMINAL, DesiredState
from app.domain.plan import DatasetRef
from app.domain.spec import RewardJobSpec
from app.job_queue import transitions
from app.models import Dataset, Job, JobEvent, StoredFile
from app.storage import blobs
from app.storage.blobs import BlobWriter
from tests.base_models.model_sources import model
from tests.domain.base_model_facts import TEXT
from tests.services import wait_until
from tests.supervisor.fake_trainer import HURRY, adapter_bytes
from tests.world import FACTS
from worker.supervisor.pool import WorkerPool

ROOT = Path(__file__).parents[2]
TENANT = "acme"
PAIRS = b'{"prompt": "p", "chosen": "good", "rejected": "bad", "line": 1}\n' * 20
#: Intervals as short as a busy machine allows.
FAST: dict[str, Any] = {
    "poll_seconds": 0.2,
    "intent_seconds": 0.2,
    "heartbeat_seconds": 0.5,
    "watchdog_seconds": 5,
    "self_fence_seconds": 6,
    "lease_seconds": 8,
    "sweep_grace_seconds": 1,
    "drain_seconds": 30,
    "backoff_seconds": 0.1,
    "backoff_max_seconds": 0.2,
}


class Workshop:
    """The environment of a worker: database, dataset, base model and settings."""

    def __init__(self, engine: Engine, directory: Path, **settings: Any) -> None:
        self.engine, self.directory = engine, directory
        self.base_model = directory / "models" / "tiny"
        self.base_model.mkdir(parents=True)
        for name, data in model().items():
            if name != "pytorch_model.bin":
                (self.base_model / name).write_bytes(data)
        catalogue = directory / "catalogue.yaml"
        catalogue.write_text(f"tiny:\n  source: local:{self.base_model}\n")
        self.settings = Settings(
            database_url=str(engine.url.render_as_string(hide_password=False)),  # type: ignore[arg-type]
            data_dir=directory / "data",
            base_models=catalogue,
            **{**FAST, **settings},
        )
        self.dataset_id = self._store_dataset()

    def submit(self, **fields: Any) -> str:
        """Queue a job with a plan; the fake trainer reads its metadata. Return its id."""
        metadata = {k: str(v) for k, v in fields.pop("metadata", {}).items()}
        spec = {
            "base_model": "tiny",
            "train_dataset": self.dataset_id,
            "metadata": metadata,
            **fields,
        }
        plan = compile_plan(
            RewardJobSpec.model_validate({**spec, "lora": {"target_modules": ["query"]}}),
            "local",
            FACTS,
            JobData(DatasetRef(id=self.dataset_id, sha256="0" * 64, pair_count=20), None, TEXT),
        )
        with transaction(self.engine) as session:
            return transitions.insert_job(
                session,
                Job(
                    id=new_id("job"),
                    tenant_id=TENANT,
                    queue=self.settings.queue,
                    spec=spec,
                    spec_sha256="0" * 64,
                    plan=plan.model_dump(mode="json"),
                    needs_gpu=RewardJobSpec.model_validate(spec).needs_gpu,
                    base_model="tiny",
                    train_dataset_id=self.dataset_id,
                ),
            ).id

    def read_job(self, job_id: str) -> Job:
        """Return the row as it is now."""
        # A reader: on SQLite frequent write transactions would starve the workers.
        with transaction(reader(self.engine)) as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[str]:
        """Return the types of the job's events, whose numbers have no gap."""
        with transaction(reader(self.engine)) as session:
            rows = session.execute(
                select(JobEvent.seq, JobEvent.type)
                .where(JobEvent.job_id == job_id)
                .order_by(JobEvent.seq)
            ).all()
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        return [row.type for row in rows]

    def set_desired_state(
        self, job_id: str, desired: DesiredState, *, keep_checkpoint: bool = False
    ) -> None:
        """Request a state as the owner of the job."""
        with transaction(self.engine) as session:
            assert transitions.set_desired_state(
                session, TENANT, job_id, desired, keep_checkpoint=keep_checkpoint
            )

    def wait(self, job_id: str, *statuses: str, seconds: float = 180) -> Job:
        """Wait until the job has one of the statuses, or fail with its events; return it."""
        try:
            wait_until(
                f"{job_id} to be {statuses}",
                lambda: self.read_job(job_id).status in {*statuses, *TERMINAL},
                seconds,
            )
        finally:
            job, events = self.read_job(job_id), self.events(job_id)
            assert job.status in statuses, f"{job.status}, attempt {job.attempt}: {events}"
        return job

    def hurry(self) -> None:
        """Let all trainers do their remaining steps at once: nothing interrupts them any more."""
        (self.base_model.parent / HURRY).touch()

    def wait_step(self, job_id: str, step: int = 1) -> None:
        """Wait until the job's trainer has done this step."""
        wait_until(f"step {step}", lambda: (self.read_job(job_id).step or 0) >= step, 180)

    def adapter(self, job_id: str) -> dict[str, bytes]:
        """Return the published files."""
        with transaction(reader(self.engine)) as session:
            files = session.scalars(
                select(StoredFile).where(StoredFile.owner_id == self.read_job(job_id).adapter_id)
            ).all()
        return {
            f.name: b"".join(blobs.read_range(self.engine, f.blob_id, 0, f.size)) for f in files
        }

    def expected(self, steps: int = 5) -> dict[str, bytes]:
        """Return the adapter of a run without faults."""
        return adapter_bytes(PAIRS, steps)

    def trainers(self) -> list[psutil.Process]:
        """Return the trainer processes of this workshop and their children."""
        return trainers_below(self.directory)

    @contextmanager
    def running_pool(self, **changes: Any) -> Iterator[WorkerPool]:
        """Run a worker in threads of this process until the block ends."""
        pool = WorkerPool(self.settings.model_copy(update=changes))
        pool.start()
        threads = pool.pollers(0.1)
        for thread in threads:
            thread.start()
        try:
            yield pool
        finally:
            pool.draining.set()
            for thread in threads:
                thread.join(timeout=60)
                assert not thread.is_alive()
            pool.close()

    def environment(self, **changes: Any) -> dict[str, str]:
        """Return the environment of a worker process."""
        values = self.settings.model_copy(update=changes).model_dump(exclude_unset=True)
        named = {
            f"PLAUDIT_{name.upper()}": value.get_secret_value()
            if hasattr(value, "get_secret_value")
            else str(value)
            for name, value in values.items()
        }
        return {**os.environ, **named, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    @contextmanager
    def process(
        self, log: IO[bytes] | None = None, **changes: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker process; kill it at the end of the block if it still runs."""
        log = log or (self.directory / "worker.log").open("ab")
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.fake_worker"],
            env=self.environment(**changes),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        log.close()
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.kill()
            child.wait()

    def _store_dataset(self) -> str:
        with BlobWriter(self.engine) as writer:
            writer.write(PAIRS)
            blob = writer.finish()
        dataset_id = new_id("ds")
        with transaction(self.engine) as session:
            session.add(
                Dataset(
                    id=dataset_id,
                    tenant_id=TENANT,
                    source_format="jsonl",
                    upload_identity=blob.sha256,
                    upload_bytes=blob.size,
                    blob_id=blob.id,
                    sha256=blob.sha256,
                    bytes=blob.size,
                    pair_count=20,
                    summary={"format": "text"},
                )
            )
        return dataset_id


def trainers_below(directory: Path) -> list[psutil.Process]:
    """Return live processes whose working directory is a work directory below this one."""
    return [process for process, _ in _at_work(directory)]


def attempts_below(directory: Path) -> list[Path]:
    """Return the work directories of live processes: …/<job>/<attempt>."""
    # The kernel marks directories that no longer exist.
    return [Path(where.removesuffix(" (deleted)")) for _, where in _at_work(directory)]


def _at_work(directory: Path) -> list[tuple[psutil.Process, str]]:
    found = []
    for process in psutil.process_iter():
        try:
            where = process.cwd()
            is_ours = where.startswith(f"{directory}/") and "/job_" in where[len(str(directory)) :]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, where))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def in_thread(act: Any) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def log_lines(log: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a worker's log."""
    lines = log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
