"""The GPUs that a worker may use: what NVML lists, restricted by CUDA_VISIBLE_DEVICES.

torch is not asked: it initialises CUDA in this process, and only trainers load it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

#: The value of CUDA_DEVICE_ORDER under which CUDA counts GPUs as this module does.
PCI_ORDER = "PCI_BUS_ID"
#: Exists where the NVIDIA driver is loaded, in containers too.
DRIVER_NODE = Path("/dev/nvidiactl")


class DeviceError(RuntimeError):
    """The worker cannot have the GPUs that it was configured for; the message says what to do."""


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG device of one.

    ``uuid`` is what CUDA_VISIBLE_DEVICES takes: ``GPU-…`` or ``MIG-…``. It does not depend on the
    order in which GPUs are listed.
    """

    uuid: str
    name: str
    memory_bytes: int | None  # None: it shares the memory of the host

    def as_json(self) -> dict[str, str]:
        """Return what GET /v1/workers shows."""
        memory = "shared" if self.memory_bytes is None else f"{self.memory_bytes >> 20} MiB"
        return {"name": self.name, "memory": memory, "uuid": self.uuid}


@dataclass(frozen=True)
class _Gpu:
    """A physical GPU and what CUDA can use of it: itself, or its MIG devices in MIG mode."""

    uuid: str
    usable: tuple[Device, ...]
    #: The MIG devices by the names that drivers before R470 gave: MIG-GPU-<uuid>/<gi>/<ci>.
    legacy: dict[str, Device]


def visible_devices(environment: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the devices that CUDA_VISIBLE_DEVICES names, in its order; all if it is not set.

    Indices count GPUs in the order of their PCI bus ids, as with CUDA_DEVICE_ORDER=PCI_BUS_ID. The
    rest is CUDA's rule as torch.cuda documents it: the first entry decides whether all are
    indices, GPU or MIG UUIDs; a UUID may be cut off while it stays unique; entries from the first
    invalid one on are ignored; a device named twice leaves none. An index or UUID of a GPU in MIG
    mode selects the first MIG device of that GPU.

    Raises:
        DeviceError: NVML fails, or the variable names devices and none of them exists.
    """
    selection = environment.get("CUDA_VISIBLE_DEVICES")
    entries = None if selection is None else [entry.strip() for entry in selection.split(",")]
    if entries is not None and not _names_devices(entries[0]):
        return ()  # empty, -1 and NoDevFiles: the worker is to have no GPU
    with _nvml() as nvml:
        gpus = _gpus(nvml) if nvml is not None else []
    if entries is None:
        return tuple(device for gpu in gpus for device in gpu.usable)
    found = _select(entries, gpus)
    if gpus and not found:
        raise DeviceError(
            f"CUDA_VISIBLE_DEVICES={selection} selects none of this machine's devices "
            f"({_listed(gpus)}). Name devices that exist, each once, or set it to an empty value "
            "to train on the CPU."
        )
    if len(found) < len(entries):
        log.warning("devices_ignored", entries=entries[len(found) :], used=_uuids(found))
    is_mixed = len({device.name for gpu in gpus for device in gpu.usable}) > 1
    if is_mixed and _index(entries[0]) >= 0 and environment.get("CUDA_DEVICE_ORDER") != PCI_ORDER:
        # CUDA's default order starts with the fastest GPU, which NVML does not know.
        log.warning("device_indices_in_pci_order", used=_uuids(found))
    return found


def assign_devices(devices: Sequence[Device], slots: int) -> tuple[Device | None, ...]:
    """Return a separate device for each slot, or None for all slots without a GPU.

    Raises:
        DeviceError: there are GPUs, and fewer than slots.
    """
    if not devices:
        return (None,) * slots
    if slots > len(devices):
        raise DeviceError(
            f"PLAUDIT_SLOTS is {slots}, and this worker has {len(devices)} GPU(s): "
            f"{', '.join(_uuids(devices))}. Each slot needs a GPU of its own: lower PLAUDIT_SLOTS "
            "or name more GPUs in CUDA_VISIBLE_DEVICES."
        )
    if slots < len(devices):
        log.info("devices_unused", slots=slots, unused=_uuids(devices[slots:]))
    return tuple(devices[:slots])


def devices_not_shared(devices: Sequence[Device]) -> list[str]:
    """Return the UUIDs of the devices whose compute mode does not let several processes use them.

    Raises:
        DeviceError: NVML fails.
    """
    found = []
    with _nvml() as nvml:
        for device in devices if nvml is not None else ():
            try:
                handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
                is_shared = nvml.nvmlDeviceGetComputeMode(handle) == nvml.NVML_COMPUTEMODE_DEFAULT
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                    raise
                is_shared = True  # a MIG device has no mode of its own
            if not is_shared:
                found.append(device.uuid)
    return found


def _select(entries: Sequence[str], gpus: Sequence[_Gpu]) -> tuple[Device, ...]:
    if entries[0].startswith("GPU-"):
        by_uuid = {gpu.uuid: gpu.usable[0] for gpu in gpus if gpu.usable}
        chosen = [_unique(entry, "GPU-", by_uuid) for entry in entries]
    elif entries[0].startswith("MIG-"):
        by_uuid = {device.uuid: device for gpu in gpus for device in gpu.legacy.values()}
        legacy = {name: device for gpu in gpus for name, device in gpu.legacy.items()}
        chosen = [legacy.get(entry) or _unique(entry, "MIG-", by_uuid) for entry in entries]
    else:
        chosen = [_indexed(entry, gpus) for entry in entries]
    valid = chosen[: chosen.index(None)] if None in chosen else chosen
    found = tuple(device for device in valid if device is not None)
    return found if len(set(found)) == len(found) else ()


def _names_devices(entry: str) -> bool:
    return entry.startswith(("GPU-", "MIG-")) or _index(entry) >= 0


def _index(entry: str) -> int:
    """Return the number at the start of an entry, -1 if there is none: CUDA reads "2nd" as 2."""
    number = re.match(r"[+-]?\d+", entry)
    return int(number[0]) if number else -1


def _indexed(entry: str, gpus: Sequence[_Gpu]) -> Device | None:
    index = _index(entry)
    usable = gpus[index].usable if 0 <= index < len(gpus) else ()
    return usable[0] if usable else None


def _unique(entry: str, prefix: str, by_uuid: dict[str, Device]) -> Device | None:
    matches = [device for uuid, device in by_uuid.items() if uuid.startswith(entry)]
    return matches[0] if entry.startswith(prefix) and len(matches) == 1 else None


@contextmanager
def _nvml() -> Iterator[Any]:
    """Open NVML; None where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        has_no_driver = error.value in (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        )
        if has_no_driver and not DRIVER_NODE.exists():
            yield None
            return
        raise DeviceError(
            f"This machine has an NVIDIA driver, but its library NVML fails: {error}. Check that "
            "nvidia-smi works here (a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility), "
            "or set CUDA_VISIBLE_DEVICES to an empty value to train on the CPU."
        ) from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise DeviceError(f"NVML cannot list the GPUs of this machine: {error}.") from error
    finally:
        pynvml.nvmlShutdown()


def _gpus(nvml: Any) -> list[_Gpu]:
    """Return the GPUs that this process may open, in the order of their PCI bus ids."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            pci = nvml.nvmlDeviceGetPciInfo(handle)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NO_PERMISSION:
                continue  # a cgroup keeps it from this process, and from CUDA too
            raise
        found.append(((pci.domain, pci.bus, pci.device), _gpu(nvml, handle)))
    return [gpu for _, gpu in sorted(found, key=lambda pair: pair[0])]


def _gpu(nvml: Any, handle: Any) -> _Gpu:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    if not _is_in_mig_mode(nvml, handle):
        return _Gpu(uuid, (_device(nvml, handle),), {})
    legacy = {}
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NOT_FOUND:
                continue  # not every place for a MIG device is taken
            raise
        place = f"{nvml.nvmlDeviceGetGpuInstanceId(mig)}/{nvml.nvmlDeviceGetComputeInstanceId(mig)}"
        legacy[f"MIG-{uuid}/{place}"] = _device(nvml, mig)
    return _Gpu(uuid, tuple(legacy.values()), legacy)


def _is_in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
            return False
        raise
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _device(nvml: Any, handle: Any) -> Device:
    try:
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        memory_bytes = None
    return Device(nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), memory_bytes)


def _uuids(devices: Sequence[Device]) -> list[str]:
    return [device.uuid for device in devices]


def _listed(gpus: Sequence[_Gpu]) -> str:
    return ", ".join(
        f"{index}: {' '.join(_uuids(gpu.usable)) or gpu.uuid}" for index, gpu in enumerate(gpus)
    )
