"""A stand-in for the module ``pynvml`` with GPUs of the test's choice.

It has the functions that ``worker.supervisor.devices`` calls, with the results, structures and
errors of the real module. A GPU in MIG mode has ``places`` for MIG devices, some of them empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pynvml


@dataclass(frozen=True)
class FakeMig:
    """A MIG device: the ids of its GPU instance and its compute instance are its place."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    name: str = "NVIDIA H100 MIG 3g.40gb"
    memory_bytes: int | None = 40 << 30


@dataclass(frozen=True)
class FakeGpu:
    """A GPU at a PCI bus; ``error`` is what NVML answers to a process that opens it."""

    uuid: str
    bus: int
    name: str = "NVIDIA H100"
    memory_bytes: int | None = 80 << 30
    places: tuple[FakeMig | None, ...] | None = None  # None: not in MIG mode
    error: int | None = None
    compute_mode: int = pynvml.NVML_COMPUTEMODE_DEFAULT


class FakeNvml:
    """Put it into ``sys.modules["pynvml"]``."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_NOT_FOUND = pynvml.NVML_ERROR_NOT_FOUND
    NVML_ERROR_NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE
    NVML_COMPUTEMODE_DEFAULT = pynvml.NVML_COMPUTEMODE_DEFAULT

    def __init__(self, gpus: Sequence[FakeGpu] = (), *, init_error: int | None = None) -> None:
        self._gpus = tuple(gpus)
        self._init_error = init_error
        self.is_open = False

    def nvmlInit(self) -> None:
        if self._init_error is not None:
            raise pynvml.NVMLError(self._init_error)
        self.is_open = True

    def nvmlShutdown(self) -> None:
        assert self.is_open
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        assert self.is_open
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        assert self.is_open
        if (error := self._gpus[index].error) is not None:
            raise pynvml.NVMLError(error)
        return self._gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu | FakeMig:
        assert self.is_open
        for gpu in self._gpus:
            for device in (gpu, *(gpu.places or ())):
                if device is not None and device.uuid == uuid:
                    return device
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetComputeMode(self, device: FakeGpu | FakeMig) -> int:
        if isinstance(device, FakeMig):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return device.compute_mode

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(domain=0, bus=gpu.bus, device=0)

    def nvmlDeviceGetUUID(self, device: FakeGpu | FakeMig) -> str:
        return device.uuid

    def nvmlDeviceGetName(self, device: FakeGpu | FakeMig) -> str:
        return device.name

    def nvmlDeviceGetMemoryInfo(self, device: FakeGpu | FakeMig) -> SimpleNamespace:
        # In a container with MIG devices only, NVML returns nothing but the UUID of their GPU.
        if isinstance(device, FakeGpu) and device.places is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        if device.memory_bytes is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=device.memory_bytes)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.name.startswith("NVIDIA GeForce"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        mode = int(gpu.places is not None)
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        assert gpu.places is not None
        return len(gpu.places)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeMig:
        assert gpu.places is not None
        if (mig := gpu.places[index]) is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return mig

    def nvmlDeviceGetGpuInstanceId(self, mig: FakeMig) -> int:
        return mig.gpu_instance

    def nvmlDeviceGetComputeInstanceId(self, mig: FakeMig) -> int:
        return mig.compute_instance
