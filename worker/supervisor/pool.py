"""The worker of this machine: its slots, and the threads that run jobs in them."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import Engine

from app.base_models.catalogue import load_catalogue
from app.core.broker import PREFLIGHT_SLOTS, preflight_queue, queues, transfer_queue
from app.core.database import make_engine, new_id
from app.core.private_files import read_or_create
from app.core.settings import Settings
from app.job_queue import worker_api
from app.job_queue.kinds import INSPECT
from app.job_queue.reconciler import requeue_lost
from app.job_queue.workers import WorkerState
from worker.supervisor.attempt import Attempt, Slot
from worker.supervisor.circuit_breaker import CircuitBreaker
from worker.supervisor.devices import Device, assign_devices, visible_devices
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.job_runner import JobRunner
from worker.supervisor.lease_renewer import LeaseRenewer
from worker.supervisor.registration import Registration, WorkerRow
from worker.supervisor.start_checks import start_checks
from worker.supervisor.trainer_process import Child, spawn_cold, trainer_environment

log = structlog.get_logger()

#: Seconds between two updates of the registration.
SEEN_SECONDS = 5.0
#: Seconds after which the machine is checked although the fork server is not ready.
READY_SECONDS = 120.0
#: Seconds that the trainer of a killed worker may take to exit (CUDA takes seconds).
LOCK_SECONDS = 15.0


class NoFreeSlotError(RuntimeError):
    """Another worker of this data directory holds a slot's lock."""


class WorkerPool:
    """Locks the slots of a data directory and runs jobs in them until it drains."""

    def __init__(self, settings: Settings) -> None:
        devices = self._devices = assign_devices(visible_devices(os.environ), settings.slots)
        self.settings = settings
        self.engine: Engine = make_engine(settings.database, settings.database_pool_size)
        self.draining = threading.Event()
        self._catalogue = load_catalogue(settings.base_models)
        self._host = socket.gethostname()
        self._id = f"{self._host}-{_directory_id(settings.data_dir / 'slots')}"
        self._guard = threading.Lock()
        self._free: dict[str, list[Slot]] = {
            settings.queue: [self._open(f"{i}", device) for i, device in enumerate(devices)],
            # Inspections only read the size of a GPU's memory.
            preflight_queue(settings): [
                self._open(name, devices[0])
                for name in ("preflight", *(f"preflight-{i}" for i in range(1, PREFLIGHT_SLOTS)))
            ],
            transfer_queue(settings): [self._open("transfer", None)],
        }
        self._slots = {name: len(slots) for name, slots in self._free.items()}
        self._worker_id = f"{self._id}-{os.getpid()}"
        shown = [device.as_json() for device in devices if device]
        self._registration = Registration(self.engine, self._host, self._rows(), shown)
        # One per queue and device: a base model that breaks inspections must not stop training, and
        # a broken GPU must not stop the others.
        self._circuit_breakers = {
            (name, device): CircuitBreaker([trainer_environment(settings.work_dir, device)])
            for name, slots in self._free.items()
            for device in {*devices, *(slot.device for slot in slots)}
        }
        self._closing = threading.Event()
        self._registrar = threading.Thread(
            target=self._keep_registered, name="registration", daemon=True
        )
        self._checks = threading.Thread(target=self._check_machine, name="checks", daemon=True)
        self._fork_client = ForkClient(trainer_environment(settings.work_dir, devices[0]))

    def start(self) -> None:
        """Take back the jobs that earlier workers of these slots left, and register."""
        for slots in self._free.values():
            for slot in slots:
                requeue_lost(self.engine, self.settings, owner_prefix=f"{self._id}/{slot.name}:")
        shutil.rmtree(self.settings.work_dir, ignore_errors=True)
        self.settings.work_dir.mkdir(parents=True, exist_ok=True)
        self._registrar.start()
        log.info("worker_started", worker=self._worker_id, slots=self.settings.slots)

    def run_one(self, queue: str) -> bool:
        """Claim a job of this queue and run it to its end; return whether there was one."""
        with self._slot(queue) as slot:
            if slot is None or self.draining.is_set():
                return False
            owner = f"{self._id}/{slot.name}:{new_id('lease')}"
            claimed_at = time.monotonic()
            claimed = worker_api.claim(
                self.engine, self.settings, queue, owner, self._host,
                has_gpu=slot.device is not None,
            )  # fmt: skip
            if claimed is None:
                return False
            renewer = LeaseRenewer(claimed.context, self.draining, claimed_at)
            attempt = Attempt(claimed.job, claimed.context, renewer, self._spawn, slot)
            runner = JobRunner(attempt, self._catalogue, self._host)
            runner.run()
            if runner.failed_action == INSPECT.action:  # a training job may inspect first
                queue = INSPECT.queue(self.settings)
            seconds = time.monotonic() - claimed_at
            self._circuit_breakers[queue, slot.device].record_attempt(runner.failure, seconds)
            return True

    def poll(self, queue: str, seconds: float) -> None:
        """Run jobs of this queue until the worker drains; log errors and continue."""
        while not self.draining.is_set():
            try:
                if self.run_one(queue):
                    continue
            except Exception:
                log.warning("claim_failed", queue=queue, exc_info=True)
            self.draining.wait(seconds)

    def pollers(self, seconds: float) -> list[threading.Thread]:
        """Return a thread that polls for each slot, not started."""
        return [
            threading.Thread(target=self.poll, args=(name, seconds), name=f"poll-{name}-{i}")
            for name in queues(self.settings)
            for i in range(self._slots[name])
        ]

    def close(self) -> None:
        """Remove the registration and release the slots."""
        self._closing.set()
        self._registrar.join(timeout=10)
        self._fork_client.close()
        if self._checks.ident is not None:
            self._checks.join(timeout=10)
        self._registration.remove()
        self.engine.dispose()
        for slots in self._free.values():
            for slot in slots:
                os.close(slot.lock)

    def _rows(self) -> list[WorkerRow]:
        suffixes = {preflight_queue(self.settings): "/p", transfer_queue(self.settings): "/t"}
        return [
            WorkerRow(f"{self._worker_id}{suffixes.get(name, '')}", name, slots)
            for name, slots in self._slots.items()
        ]

    def _spawn(
        self, directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]
    ) -> Child:
        """Start a trainer as a fork, or in a fresh interpreter if the fork server is not ready."""
        if child := self._fork_client.spawn(directory, environment, keep):
            return child
        return spawn_cold(directory, environment, keep)

    @contextmanager
    def _slot(self, queue: str) -> Iterator[Slot | None]:
        slot = self._take_slot(queue)
        try:
            yield slot
        finally:
            if slot is not None:
                with self._guard:
                    self._free[queue].append(slot)

    def _take_slot(self, queue: str) -> Slot | None:
        """Take a free slot whose device passes its self-test, if it needs one."""
        refused: list[Slot] = []
        try:
            while True:
                with self._guard:
                    slot = self._free[queue].pop() if self._free.get(queue) else None
                if slot is None or self._circuit_breakers[queue, slot.device].allows_claim():
                    return slot
                refused.append(slot)
        finally:
            if refused:
                with self._guard:
                    self._free[queue] += refused

    def _open(self, name: str, device: Device | None) -> Slot:
        """Take a slot's lock. Trainers inherit it, so a free lock means that they are gone."""
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

    def _keep_registered(self) -> None:
        """Update the registration, and keep the fork server running.

        The kernel ends the fork server with the thread that started it, so it is started here.
        """
        check_at = time.monotonic() + READY_SECONDS
        while True:
            try:
                if not self._fork_client.is_alive:
                    self._fork_client.start()
                is_due = self._fork_client.is_ready or time.monotonic() > check_at
                if is_due and self._checks.ident is None:
                    self._checks.start()
                busy = {name: self._slots[name] - len(free) for name, free in self._free.items()}
                self._registration.update({name: self._state(name) for name in busy}, busy)
            except Exception:
                log.warning("registration_not_written", exc_info=True)
            if self._closing.wait(SEEN_SECONDS):
                return

    def _check_machine(self) -> None:
        """Run the quick checks and show their results with the registration.

        If one fails, each device must pass its self-test before it gets another job.
        """
        results = start_checks(self._fork_client, self._devices)
        failed = [result for result in results if result.status == "failed"]
        for result in failed:
            log.error("check_failed", check=result.check, detail=result.detail)
        for breaker in self._circuit_breakers.values() if failed else ():
            breaker.suspect()
        self._registration.checks = [result.as_json() for result in results]

    def _state(self, queue: str) -> WorkerState:
        if self.draining.is_set():
            return WorkerState.DRAINING
        is_broken = all(
            breaker.is_open
            for (name, _), breaker in self._circuit_breakers.items()
            if name == queue
        )
        return WorkerState.UNHEALTHY if is_broken else WorkerState.READY


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _directory_id(directory: Path) -> str:
    """Return the id of a directory of slots, which lease owners and worker ids contain.

    It is stored in the directory: two containers may have the same host name and path.
    """
    directory.mkdir(0o700, parents=True, exist_ok=True)  # the directory contains pairs and adapters
    return read_or_create(directory / "place", secrets.token_hex(4))
