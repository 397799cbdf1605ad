"""The memory limit of a trainer, and detection of trainers that ended for lack of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.core.settings import Settings
from app.job_queue.kinds import JobKind
from worker.ipc.machine_memory import machine_memory_bytes
from worker.ipc.order import WorkOrder

#: An inspection with a small model and little data writes to less than 2 GiB.
BASE_BYTES = 4 << 30
#: A tokenizer takes up to 20 times the size of its file while it is loaded.
BYTES_PER_MODEL_BYTE = 32
BYTES_PER_DATA_BYTE = 2
MIN_BYTES = 2 << 30
#: An inspection may use a third of the machine's memory, so that two of them cannot exhaust it.
MACHINE_PART = 3
#: Counters of processes that the kernel killed for lack of memory: of the container, by cgroup
#: version, and of the machine.
OOM_COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
    Path("/proc/vmstat"),
)


def memory_limit(
    settings: Settings, kind: JobKind, order: WorkOrder, directory: Path
) -> int | None:
    """Return the bytes that the trainer of an order may write to; None for no limit.

    Without a setting, the limit of a kind that is bounded by its inputs follows the sizes of the
    model's files (except weights, which it does not load) and of the data in ``directory``.
    """
    limit = kind.memory_bytes(settings)
    if limit is not None or not kind.is_bounded_by_inputs:
        return limit
    files = (order.train_file, order.eval_file, *order.eval_files.values())
    data = sum(_sizes(directory / name for name in files if name))
    wanted = BASE_BYTES + BYTES_PER_DATA_BYTE * data
    wanted += BYTES_PER_MODEL_BYTE * sum(
        _sizes(p for p in Path(order.model_dir).iterdir() if p.suffix != ".safetensors")
    )
    return max(MIN_BYTES, min(wanted, machine_memory_bytes() // MACHINE_PART))


def kills_for_memory() -> int:
    """Return how many processes the kernel has killed so far for lack of memory."""
    count = 0
    for path in OOM_COUNTERS:
        with suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    count += int(value)
    return count


def _sizes(paths: Iterator[Path]) -> Iterator[int]:
    for path in paths:
        with suppress(OSError):  # reported later, when the file is read
            yield os.stat(path).st_size
