"""The GPUs of a worker: CUDA_VISIBLE_DEVICES and NVML, and the GPUs that its trainers see."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pynvml
import pytest
from sqlalchemy import select

from app.core.database import reader, transaction
from app.core.logging import configure_logging
from app.domain.lifecycle import FailureCode
from app.job_queue.workers import WorkerState
from app.models import Worker
from tests.services import wait_until
from tests.supervisor import fake_forks
from tests.supervisor.fake_nvml import FakeGpu, FakeMig, FakeNvml
from tests.supervisor.workshop import Workshop
from worker import __main__ as worker_program
from worker.supervisor import devices, pool
from worker.supervisor.circuit_breaker import MAX_EARLY, CircuitBreaker
from worker.supervisor.devices import Device, DeviceError, assign_devices, visible_devices
from worker.supervisor.trainer_process import trainer_environment

Install = Callable[..., FakeNvml]

#: NVML lists GPUs in another order; their buses give the order of the indices: A, B, C, D.
A, B, C, D = (f"GPU-{start}-6b0d-4a3e-9f5c" for start in ("1a2b", "1a3c", "7e01", "c0de"))
FOUR_GPUS = [FakeGpu(C, 0x81), FakeGpu(A, 0x01), FakeGpu(D, 0xC1), FakeGpu(B, 0x41)]

P, Q = "GPU-aaaa-0001", "GPU-bbbb-0002"
Q1, Q2 = "MIG-5f00-0001", "MIG-5f99-0002"
#: The second GPU is in MIG mode; one of its places is empty.
MIG_HOST = [
    FakeGpu(P, 0x01),
    FakeGpu(Q, 0x41, places=(FakeMig(Q1, 1, 0), None, FakeMig(Q2, 2, 0))),
]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Give this machine the GPUs of the test."""
    monkeypatch.setattr(devices, "DRIVER_NODE", tmp_path / "nvidiactl")

    def install(*gpus: FakeGpu, **how: Any) -> FakeNvml:
        nvml = FakeNvml(gpus, **how)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return install


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return the events logged so far."""
    stream = io.StringIO()
    configure_logging(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    configure_logging()


def registered(workshop: Workshop) -> list[list[dict[str, str]]]:
    """Return the devices in each row of the worker: for jobs, inspections and transfers."""
    with transaction(reader(workshop.engine)) as session:
        return [worker.devices for worker in session.scalars(select(Worker))]


def selected(value: str | None, **more: str) -> list[str]:
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    return [device.uuid for device in visible_devices({**environment, **more})]


@pytest.mark.parametrize(
    ("gpus", "value", "expected"),
    [
        (FOUR_GPUS, None, [A, B, C, D]),
        # Indices.
        (FOUR_GPUS, "3", [D]),
        (FOUR_GPUS, "2,0", [C, A]),
        (FOUR_GPUS, " 1 , 2 ", [B, C]),
        (FOUR_GPUS, "1st,2nd", [B, C]),
        (FOUR_GPUS, "0,2,-1,1", [A, C]),
        (FOUR_GPUS, "1,4,0", [B]),
        (FOUR_GPUS, "1,,0", [B]),
        (FOUR_GPUS, f"1,{C}", [B]),
        # UUIDs, whole or cut off.
        (FOUR_GPUS, D, [D]),
        (FOUR_GPUS, f"{D},{A}", [D, A]),
        (FOUR_GPUS, "GPU-7e,GPU-1a2", [C, A]),
        (FOUR_GPUS, "GPU-7e,GPU-1a,GPU-c0", [C]),
        (FOUR_GPUS, f"{C},GPU-ffff,{A}", [C]),
        (FOUR_GPUS, f"{C},0", [C]),
        # No GPU.
        (FOUR_GPUS, "", []),
        (FOUR_GPUS, "-1", []),
        (FOUR_GPUS, "-1,0", []),
        (FOUR_GPUS, "NoDevFiles", []),
        # MIG.
        (MIG_HOST, None, [P, Q1, Q2]),
        (MIG_HOST, "0", [P]),
        (MIG_HOST, "1", [Q1]),
        (MIG_HOST, Q, [Q1]),
        (MIG_HOST, Q2, [Q2]),
        (MIG_HOST, f"{Q2},{Q1}", [Q2, Q1]),
        (MIG_HOST, "MIG-5f9", [Q2]),
        (MIG_HOST, f"MIG-{Q}/2/0", [Q2]),
        (MIG_HOST, f"MIG-{Q}/2/0,MIG-{Q}/7/0", [Q2]),
        (MIG_HOST, f"{Q1},{P}", [Q1]),
        # A machine without GPUs.
        ([], None, []),
        ([], "0", []),
        ([], A, []),
    ],
)
def test_worker_uses_the_devices_it_was_given(
    install: Install, gpus: list[FakeGpu], value: str | None, expected: list[str]
) -> None:
    nvml = install(*gpus)
    assert selected(value) == expected
    assert not nvml.is_open


@pytest.mark.parametrize(
    ("gpus", "value"),
    [
        (FOUR_GPUS, "4"),
        (FOUR_GPUS, "0,0"),
        (FOUR_GPUS, "0,1,0"),
        (FOUR_GPUS, f"{A},GPU-1a2"),
        (FOUR_GPUS, "GPU-1a"),
        (FOUR_GPUS, "GPU-ffff"),
        (FOUR_GPUS, "MIG-5f00"),
        (MIG_HOST, "MIG-5f"),
        (MIG_HOST, f"{Q1},{Q1}"),
        ([FakeGpu(Q, 1, places=(None, None))], "0"),
    ],
)
def test_selection_of_devices_that_do_not_exist_is_refused(
    install: Install, gpus: list[FakeGpu], value: str
) -> None:
    install(*gpus)
    with pytest.raises(DeviceError) as refusal:
        selected(value)
    assert f"CUDA_VISIBLE_DEVICES={value} selects none" in str(refusal.value)
    assert gpus[0].uuid in str(refusal.value) or Q1 in str(refusal.value)


def test_ignored_entries_are_logged(
    install: Install, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    install(*FOUR_GPUS)
    selected("1,7,0")
    assert [(line["event"], line["entries"], line["used"]) for line in logged()] == [
        ("devices_ignored", ["7", "0"], [B])
    ]


@pytest.mark.parametrize(
    ("value", "order", "events"),
    [
        ("0", None, ["device_indices_in_pci_order"]),
        ("0", "FASTEST_FIRST", ["device_indices_in_pci_order"]),
        ("0", "PCI_BUS_ID", []),
        (B, None, []),
        (None, None, []),
    ],
)
def test_indices_on_a_machine_with_different_gpus_are_logged(
    install: Install,
    logged: Callable[[], list[dict[str, Any]]],
    value: str | None,
    order: str | None,
    events: list[str],
) -> None:
    install(FakeGpu(A, 1, name="NVIDIA GeForce RTX 3060"), FakeGpu(B, 2))
    selected(value, **({"CUDA_DEVICE_ORDER": order} if order else {}))
    assert [line["event"] for line in logged()] == events


@pytest.mark.parametrize(
    ("gpus", "shown"),
    [
        ([FakeGpu(A, 1)], {"name": "NVIDIA H100", "memory": "81920 MiB", "uuid": A}),
        ([FakeGpu(A, 1, memory_bytes=None)], {"memory": "shared"}),
        (MIG_HOST[1:], {"name": "NVIDIA H100 MIG 3g.40gb", "memory": "40960 MiB", "uuid": Q1}),
    ],
)
def test_workers_show_name_memory_and_uuid(
    install: Install, gpus: list[FakeGpu], shown: dict[str, str]
) -> None:
    install(*gpus)
    found = visible_devices({})[0].as_json()
    assert found.keys() == {"name", "memory", "uuid"}
    assert found.items() >= shown.items()


def test_gpu_that_this_process_may_not_open_is_not_counted(install: Install) -> None:
    """CUDA does not count it either: the indices are those of the others."""
    install(FakeGpu(A, 1, error=pynvml.NVML_ERROR_NO_PERMISSION), FakeGpu(B, 2), FakeGpu(C, 3))
    assert selected(None) == [B, C]
    assert selected("1") == [C]


@pytest.mark.parametrize(
    "error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_machine_without_a_driver_has_no_gpu(install: Install, error: int) -> None:
    install(init_error=error)
    assert selected(None) == []


@pytest.mark.parametrize(
    ("error", "has_node"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, True),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, False),
        (pynvml.NVML_ERROR_UNKNOWN, True),
    ],
)
def test_driver_that_fails_is_an_error_and_not_a_cpu(
    install: Install, error: int, has_node: bool
) -> None:
    install(init_error=error)
    if has_node:
        devices.DRIVER_NODE.touch()
    with pytest.raises(DeviceError, match="NVIDIA_DRIVER_CAPABILITIES"):
        selected(None)
    assert selected("") == []


def test_gpu_that_is_lost_is_an_error(install: Install) -> None:
    nvml = install(FakeGpu(A, 1), FakeGpu(B, 2, error=pynvml.NVML_ERROR_GPU_IS_LOST))
    with pytest.raises(DeviceError, match="GPU is lost"):
        selected(None)
    assert not nvml.is_open


@pytest.mark.parametrize(
    ("value", "slots", "expected"),
    [
        ("3", 1, [D]),
        ("2,1", 2, [C, B]),
        (None, 2, [A, B]),
        (None, 4, [A, B, C, D]),
        ("", 3, [None, None, None]),
    ],
)
def test_each_slot_has_a_device_of_its_own(
    install: Install, value: str | None, slots: int, expected: list[str | None]
) -> None:
    install(*FOUR_GPUS)
    given = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assigned = assign_devices(visible_devices(given), slots)
    assert [device and device.uuid for device in assigned] == expected


def test_devices_without_a_slot_are_logged(
    install: Install, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    install(*FOUR_GPUS)
    assign_devices(visible_devices({}), 3)
    assert [(line["event"], line["unused"]) for line in logged()] == [("devices_unused", [D])]


def test_more_slots_than_devices_end_the_worker_with_a_message(
    workshop: Workshop,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(*FOUR_GPUS)
    for name, value in workshop.environment(slots=3).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setattr(sys, "argv", ["worker"])
    assert worker_program.main() == 1
    said = capsys.readouterr().err
    assert "PLAUDIT_SLOTS is 3, and this worker has 2 GPU(s)" in said
    assert B in said
    assert C in said


@pytest.mark.parametrize(
    ("gpus", "value", "expected"),
    [
        (FOUR_GPUS, "3", [D]),
        (FOUR_GPUS, f"{C},{A}", [C, A]),
        (MIG_HOST, f"{Q2},{Q1}", [Q2, Q1]),
    ],
)
def test_trainers_see_one_device_each(
    workshop: Workshop,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[FakeGpu],
    value: str,
    expected: list[str],
) -> None:
    install(*gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    environments: list[Mapping[str, str]] = []

    def spawn(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Any:
        environments.append(environment)
        return fake_forks.spawn_forked(directory, environment, keep)

    monkeypatch.setattr(pool, "spawn_cold", spawn)
    jobs = [workshop.submit(metadata={"fault": "hang"}) for _ in expected]
    with workshop.running_pool(slots=len(expected)) as worker:
        wait_until("all trainers to run", lambda: len(environments) == len(jobs))
        assert sorted(given["CUDA_VISIBLE_DEVICES"] for given in environments) == sorted(expected)
        assert {given["CUDA_DEVICE_ORDER"] for given in environments} == {"PCI_BUS_ID"}
        server = worker._fork_client.environment  # type: ignore[attr-defined]
        assert server["CUDA_VISIBLE_DEVICES"] in expected
        wait_until("the worker to register", lambda: len(registered(workshop)) == 3)
        for shown in registered(workshop):
            assert [device["uuid"] for device in shown] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
        ),
        (
            {"NCCL_DEBUG": "WARN", "TRITON_CACHE_DIR": "/cache", "HF_TOKEN": "secret"},
            {
                "PYTORCH_ALLOC_CONF": "expandable_segments:True",
                "NCCL_DEBUG": "WARN",
                "TRITON_CACHE_DIR": "/cache",
            },
        ),
    ],
)
def test_trainer_on_a_gpu_gets_the_settings_of_its_libraries(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    expected: dict[str, str],
) -> None:
    names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TRITON_CACHE_DIR", "HF_TOKEN"}
    for name in {*names, *(name for name in os.environ if name.startswith("NCCL_"))}:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = trainer_environment(tmp_path, Device(A, "a GPU", 80 << 30))
    chosen = {n: v for n, v in environment.items() if n in names or n.startswith("NCCL_")}
    assert chosen == expected


@pytest.mark.parametrize("value", [None, "", "NoDevFiles"])
def test_trainers_of_a_worker_without_gpus_see_none(
    workshop: Workshop,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    install(*(FOUR_GPUS if value is not None else []))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    environments: list[Mapping[str, str]] = []

    def spawn(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Any:
        environments.append(environment)
        return fake_forks.spawn_forked(directory, environment, keep)

    monkeypatch.setattr(pool, "spawn_cold", spawn)
    job_id = workshop.submit()
    with workshop.running_pool():
        workshop.wait(job_id, "succeeded")
    assert {given.get("CUDA_VISIBLE_DEVICES") for given in environments} == {value}


def test_broken_gpu_does_not_stop_the_others(
    workshop: Workshop, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(*FOUR_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{A},{B}")
    settings = workshop.settings.model_copy(update={"slots": 2})
    worker = pool.WorkerPool(settings)
    try:
        breakers = {
            device.uuid: breaker
            for (queue, device), breaker in worker._circuit_breakers.items()
            if device and queue == settings.queue
        }
        for _ in range(MAX_EARLY):
            breakers[B].record_attempt(FailureCode.CUDA_ERROR, 1.0)
        taken = [worker._take_slot(settings.queue) for _ in range(2)]
        assert [slot and slot.device and slot.device.uuid for slot in taken] == [A, None]
        assert worker._state(settings.queue) == WorkerState.READY
        for _ in range(MAX_EARLY):
            breakers[A].record_attempt(FailureCode.CUDA_ERROR, 1.0)
        assert worker._state(settings.queue) == WorkerState.UNHEALTHY
    finally:
        worker.engine.dispose()


@pytest.mark.parametrize("has_gpu", [False, True])
def test_worker_claims_only_what_its_devices_can_run(
    workshop: Workshop, install: Install, monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool
) -> None:
    install(*FOUR_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", C if has_gpu else "")
    quantized, plain = workshop.submit(quantization="4bit"), workshop.submit()
    with workshop.running_pool():
        workshop.wait(plain, "succeeded")
        if has_gpu:
            workshop.wait(quantized, "succeeded")
    if not has_gpu:
        job = workshop.read_job(quantized)
        assert (job.status, job.attempt) == ("queued", 0)


def test_self_test_fails_for_a_gpu_that_cuda_cannot_use(tmp_path: Path) -> None:
    for device, is_fit in ((None, True), (Device("GPU-1", "H200", 1 << 37), False)):
        environment = trainer_environment(tmp_path, device)
        assert CircuitBreaker([])._passes_self_test(environment) is is_fit
