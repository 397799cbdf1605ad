"""The checks that a worker runs when it starts, and their results in GET /v1/workers."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from sqlalchemy import select

from app.core.database import reader
from app.models import Worker
from tests.services import wait_until
from tests.supervisor.fake_nvml import FakeGpu, FakeMig, FakeNvml
from tests.supervisor.workshop import Workshop
from worker.supervisor import devices, pool, start_checks
from worker.supervisor.circuit_breaker import CircuitBreaker
from worker.supervisor.devices import Device
from worker.supervisor.fork_client import ForkClient
from worker.trainer import self_test

A = "GPU-1a2b-6b0d-4a3e-9f5c"


def results(workshop: Workshop) -> list[dict[str, str]]:
    """Return the results in the row of the training queue; none before the checks have ended."""
    with reader(workshop.engine).connect() as connection:
        found = connection.execute(
            select(Worker.doctor).where(Worker.queue == workshop.settings.queue)
        ).scalar()
    return found or []


def states(workshop: Workshop) -> set[str]:
    """Return the state of the worker's row for the training queue."""
    with reader(workshop.engine).connect() as connection:
        queue = workshop.settings.queue
        return set(connection.scalars(select(Worker.state).where(Worker.queue == queue)))


def test_worker_shows_what_its_checks_found_and_takes_no_job_when_one_failed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NVML lists a GPU, and this machine has no CUDA."""
    monkeypatch.setattr(pool, "ForkClient", ForkClient)
    monkeypatch.setattr(pool, "SEEN_SECONDS", 0.2)
    # The self-test that follows a failed check; it fails for such a GPU as well.
    failing = partial(CircuitBreaker, self_test=("/bin/sh", "-c", "exit 1"))
    monkeypatch.setattr(pool, "CircuitBreaker", failing)
    monkeypatch.setattr(devices, "DRIVER_NODE", tmp_path / "nvidiactl")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([FakeGpu(A, 1)]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with workshop.running_pool():
        wait_until("the checks", lambda: bool(results(workshop)), 180)
        found = {each["check"]: each for each in results(workshop)}
        job_id = workshop.submit()
        wait_until("the worker to be unhealthy", lambda: states(workshop) == {"unhealthy"}, 60)
        assert workshop.read_job(job_id).status == "queued"
    assert found["locks of killed trainers"]["status"] == "passed"
    assert found["devices"]["status"] == "passed"
    assert "NVIDIA H100, 81920 MiB" in found["devices"]["detail"]
    forks = found["forked trainers"]
    assert forks["status"] == "failed"
    assert f"on {A}" in forks["detail"]
    assert "CUDA cannot use it" in forks["detail"]


class NoForks:
    """A server that cannot fork."""

    def spawn(self, *_: object) -> None:
        """Return None, as a server does that is not ready."""


def test_server_without_forks_is_a_failed_check() -> None:
    server: Any = NoForks()
    found = {each.check: each for each in start_checks.start_checks(server, (None, None))}
    assert found["forked trainers"].status == "failed"
    assert "cannot fork" in found["forked trainers"].detail


class ColdForks:
    """A server whose forks find that CUDA was used before them."""

    def spawn(self, directory: Path, *_: Any) -> Any:
        """Start a program that reports this, and succeeds."""
        said = f"the fork server has used CUDA: {start_checks._COLD}"
        return subprocess.Popen(
            ["sh", "-c", f"echo '{said}' >&2"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.mark.parametrize(
    ("device", "status"),
    [
        (Device(A, "H100", 1), "failed"),
        (Device("MIG-1", "H100 MIG", 1), "passed"),  # such forks always start cold
    ],
)
def test_forks_that_start_cold_fail(
    monkeypatch: pytest.MonkeyPatch, device: Device, status: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([FakeGpu(A, 1)]))
    server: Any = ColdForks()
    found = {each.check: each for each in start_checks.start_checks(server, (device,))}
    assert found["forked trainers"].status == status


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        (pynvml.NVML_COMPUTEMODE_DEFAULT, "passed"),
        (pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, "failed"),
        (pynvml.NVML_COMPUTEMODE_PROHIBITED, "failed"),
    ],
)
def test_gpu_that_processes_cannot_share_fails(
    monkeypatch: pytest.MonkeyPatch, mode: int, status: str
) -> None:
    mig = FakeMig("MIG-1", 1, 0)
    gpus = [FakeGpu(A, 1, compute_mode=mode), FakeGpu("GPU-2", 2, places=(mig,))]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus))
    server: Any = NoForks()
    found = start_checks.start_checks(server, [Device(A, "H100", 1), Device("MIG-1", "H100", 1)])
    assert found[0].status == status
    assert A in found[0].detail
    assert ("nvidia-smi -c DEFAULT" in found[0].detail) is (status == "failed")


@pytest.mark.parametrize(
    ("given", "seen", "capability", "problem"),
    [
        (A, A, (9, 0), None),
        ("GPU-1a2b", A, (8, 6), None),
        ("0", A, (9, 0), None),
        ("MIG-1", A, (9, 0), None),
        (A, "GPU-7e01", (9, 0), f"was given {A}, and CUDA uses GPU-7e01"),
        (A, A, (7, 0), "torch has no kernels for NVIDIA (sm_70), only for sm_80, sm_90"),
        (A, A, (10, 0), "torch has no kernels for NVIDIA (sm_100)"),
    ],
)
def test_self_test_wants_the_gpu_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    seen: str,
    capability: tuple[int, int],
    problem: str | None,
) -> None:
    major, minor = capability
    properties = SimpleNamespace(
        uuid=seen.removeprefix("GPU-"), name="NVIDIA", major=major, minor=minor
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    found = self_test._wrong_gpu()
    assert (found is None) if problem is None else (problem in (found or ""))
