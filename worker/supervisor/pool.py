"""This machine's slots: who works here, on what, and whether it is being shut down."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from app.base_models.catalogue import load_catalogue
from app.core.broker import preflight_queue, queues
from app.core.database import make_engine, new_id, now_ms, transaction
from app.core.settings import Settings
from app.job_queue import worker_api
from app.job_queue.reconciler import requeue_lost
from app.models import Worker
from worker.supervisor.attempt import Attempt, Slot
from worker.supervisor.circuit_breaker import CircuitBreaker
from worker.supervisor.devices import Device, assign_devices, visible_devices
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.job_runner import JobRunner
from worker.supervisor.lease_renewer import LeaseRenewer
from worker.supervisor.trainer_process import Child, spawn_cold, trainer_environment

log = structlog.get_logger()

SEEN_SECONDS = 5.0
#: How long a trainer of a killed worker may take to be gone (CUDA takes seconds).
LOCK_SECONDS = 15.0


class NoFreeSlotError(RuntimeError):
    """Another worker of this data directory holds every slot."""


class WorkerPool:
    """Opens the database, takes its slots' locks, and runs jobs in them until it is drained."""

    def __init__(self, settings: Settings) -> None:
        devices = assign_devices(visible_devices(os.environ), settings.slots)
        self.settings = settings
        self.engine: Engine = make_engine(settings.database, settings.database_pool_size)
        self.draining = threading.Event()
        self._catalogue = load_catalogue(settings.base_models)
        self._host = socket.gethostname()
        self._id = f"{self._host}-{_place(settings.data_dir / 'slots')}"
        self._guard = threading.Lock()
        self._free: dict[str, list[Slot]] = {
            settings.queue: [self._open(f"{i}", device) for i, device in enumerate(devices)],
            # Inspections only read the size of a GPU's memory.
            preflight_queue(settings): [self._open("preflight", devices[0])],
        }
        self._slots = {name: len(slots) for name, slots in self._free.items()}
        self._worker_id = f"{self._id}-{os.getpid()}"
        self._devices = [device.as_json() for device in devices if device]
        self._brake = CircuitBreaker()
        self._ended = threading.Event()
        self._presence = threading.Thread(target=self._be_seen, name="presence", daemon=True)
        self._forks = ForkClient(trainer_environment(settings.work_dir, devices[0]))

    def start(self) -> None:
        """Take back what earlier workers of these slots left, and be seen."""
        for slots in self._free.values():
            for slot in slots:
                requeue_lost(self.engine, self.settings, owner_prefix=f"{self._id}/{slot.name}:")
        shutil.rmtree(self.settings.work_dir, ignore_errors=True)
        self._presence.start()
        log.info("worker_started", worker=self._worker_id, slots=self.settings.slots)

    def run_one(self, queue: str) -> bool:
        """Claim a job of this queue and work on it to its end; False when there was none."""
        with self._slot(queue) as slot:
            if slot is None or self.draining.is_set() or not self._brake.may_work():
                return False
            owner = f"{self._id}/{slot.name}:{new_id('lease')}"
            claimed_at = time.monotonic()
            claimed = worker_api.claim(self.engine, self.settings, queue, owner, self._host)
            if claimed is None:
                return False
            renewer = LeaseRenewer(claimed.context, self.draining, claimed_at)
            attempt = Attempt(claimed.job, claimed.context, renewer, self._spawn, slot)
            runner = JobRunner(attempt, self._catalogue, self._host)
            runner.run()
            self._brake.ended(runner.failure, time.monotonic() - claimed_at)
            return True

    def poll(self, queue: str, seconds: float) -> None:
        """Look for work until drained, whatever goes wrong: nobody starts this thread again."""
        while not self.draining.is_set():
            try:
                if self.run_one(queue):
                    continue
            except Exception:
                log.warning("claim_failed", queue=queue, exc_info=True)
            self.draining.wait(seconds)

    def pollers(self, seconds: float) -> list[threading.Thread]:
        """One polling thread a slot, not started."""
        return [
            threading.Thread(target=self.poll, args=(name, seconds), name=f"poll-{name}-{i}")
            for name in queues(self.settings)
            for i in range(self._slots[name])
        ]

    def close(self) -> None:
        """Be gone from the list of workers, and let go of the slots."""
        self._ended.set()
        self._presence.join(timeout=10)
        self._forks.close()
        try:
            with transaction(self.engine) as session:
                session.execute(delete(Worker).where(Worker.id.startswith(self._worker_id)))
        except SQLAlchemyError:
            log.warning("worker_not_signed_off", exc_info=True)
        self.engine.dispose()
        for slots in self._free.values():
            for slot in slots:
                os.close(slot.lock)

    def _spawn(
        self, directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]
    ) -> Child:
        """A fork of the warm server; a fresh interpreter when there is none."""
        if child := self._forks.spawn(directory, environment, keep):
            return child
        return spawn_cold(directory, environment, keep)

    @contextmanager
    def _slot(self, queue: str) -> Iterator[Slot | None]:
        with self._guard:
            slot = self._free[queue].pop() if self._free.get(queue) else None
        try:
            yield slot
        finally:
            if slot is not None:
                with self._guard:
                    self._free[queue].append(slot)

    def _open(self, name: str, device: Device | None) -> Slot:
        """Take a slot's lock; the trainer inherits it, so a free lock means a dead trainer."""
        path = self.settings.data_dir / "slots" / f"{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise NoFreeSlotError(
                    f"slot {name} of {self.settings.data_dir} is in use: another worker runs "
                    "there. Stop it, or give this one a PLAUDIT_DATA_DIR of its own."
                )
            time.sleep(0.1)
        return Slot(name, descriptor, device)

    def _be_seen(self) -> None:
        """Sign in, and keep the fork server up: it lives as long as the thread that started it."""
        while True:
            try:
                if not self._forks.is_alive:
                    self._forks.start()
                self._sign_in()
            except Exception:
                log.warning("presence_not_written", exc_info=True)
            if self._ended.wait(SEEN_SECONDS):
                return

    def _state(self) -> str:
        if self.draining.is_set():
            return "draining"
        return "unhealthy" if self._brake.is_on else "ready"

    def _sign_in(self) -> None:
        dialect = sqlite if self.engine.dialect.name == "sqlite" else postgresql
        with transaction(self.engine) as session:
            for name, slots in self._slots.items():
                values: dict[str, Any] = {
                    "busy": slots - len(self._free[name]),
                    "state": self._state(),
                    "seen_at": now_ms(),
                }
                row_id = self._worker_id if name == self.settings.queue else f"{self._worker_id}/p"
                session.execute(
                    dialect.insert(Worker)
                    .values(
                        id=row_id,
                        host=self._host,
                        queue=name,
                        slots=slots,
                        devices=self._devices,
                        versions=_versions(),
                        **values,
                    )
                    .on_conflict_do_update(index_elements=["id"], set_=values)
                )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _place(directory: Path) -> str:
    """What the slots of this directory are called: whoever holds their locks may say so.

    Kept in the directory itself: two containers may share a host's name and a path.
    """
    directory.mkdir(0o700, parents=True, exist_ok=True)  # pairs and adapters lie there
    name = directory / "place"
    if not name.exists():
        draft = directory / f"place.{os.getpid()}"
        draft.write_text(secrets.token_hex(4))
        try:
            os.link(draft, name)  # whole or not at all; the first one wins
        except FileExistsError:
            log.debug("place_known", directory=str(directory))
        draft.unlink()
    return name.read_text()


def _versions() -> dict[str, str]:
    names = ("plaudit", "torch", "transformers", "trl", "peft")
    return {name: importlib.metadata.version(name) for name in names if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
