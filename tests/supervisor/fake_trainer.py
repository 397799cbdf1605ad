"""A trainer without torch that uses the same protocol and follows the job's metadata.

Its training is a chain of hashes, so that a resumed run gives the same adapter only if it continued
exactly from its checkpoint. Each step is recorded in a file next to the base model.

Metadata: ``steps``, ``step_ms``, ``checkpoint_steps``, and ``fault`` with ``fault_step``. The fault
"outlive" acts from the start: the trainer survives a frozen or dead worker.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.domain.lifecycle import FailureCode, Phase
from app.domain.progress import (
    CheckpointSaved,
    Failed,
    FileEntry,
    Message,
    Noted,
    Packaged,
    PhaseChanged,
    Stepped,
    Stopped,
)
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, MANIFEST, ORDER_FILE, WorkOrder
from worker.ipc.parent_death import die_with_parent

RECORD = "record"
FINGERPRINT = {"engine": "hashes"}


def adapter_bytes(pairs: bytes, steps: int) -> dict[str, bytes]:
    """Return the adapter after ``steps`` steps on these pairs."""
    state = b""
    for step in range(1, steps + 1):
        state = next_state(state, pairs, step)
    return package(state)


def next_state(state: bytes, pairs: bytes, step: int) -> bytes:
    """Do one step."""
    return hashlib.sha256(state + hashlib.sha256(pairs).digest() + b"%d" % step).digest()


def main() -> int:
    """Run until the end that the metadata asks for."""
    order = WorkOrder.model_validate_json(Path(ORDER_FILE).read_bytes())
    assert order.spec is not None
    told: dict[str, Any] = order.spec.get("metadata", {})  # type: ignore[assignment]
    if told.get("fault") == "outlive":
        channel: Channel = Outliving()
    else:
        die_with_parent()
        channel = Channel()
        channel.watch(order.watchdog_seconds)
    steps, pause = int(told.get("steps", 5)), int(told.get("step_ms", 20)) / 1000
    every = int(told.get("checkpoint_steps", 3))
    pairs = Path(order.train_file or "").read_bytes()
    state, step = resume(order)
    channel.say(PhaseChanged(phase=Phase.TRAINING))
    record(order, "start", step)
    while step < steps:
        time.sleep(pause)
        step += 1
        state = next_state(state, pairs, step)
        record(order, "step", step)
        channel.say(
            Stepped(
                step=step, total_steps=steps, epoch=step / steps, metrics={"train/loss": 1 / step}
            )
        )
        if step == int(told.get("fault_step", 2)):
            strike(str(told.get("fault", "")), channel, order)
        if channel.is_stop_wanted:
            save(channel, state, step)
            channel.say(Stopped(step=step))
            return EXIT_STOPPED
        if step % every == 0:
            save(channel, state, step)
    if told.get("fault") == "fail":
        channel.say(Failed(code=FailureCode.NAN_LOSS, detail="loss is\x00nan", step=step))
        return EXIT_FAILED
    files = write(Path("adapter"), package(state))
    channel.say(Packaged(directory="adapter", files=files, certificate={"is_verified": True}))
    if told.get("fault") == "linger":
        time.sleep(3600)
    return EXIT_DONE


class Outliving(Channel):
    """A channel of a trainer that continues without a supervisor and has no watchdog."""

    def say(self, message: Message) -> None:
        """Write a message if the supervisor still reads it."""
        with suppress(BrokenPipeError):
            os.write(self._out, message.model_dump_json().encode() + b"\n")


def package(state: bytes) -> dict[str, bytes]:
    """Return the adapter of a state."""
    return {
        "adapter_config.json": b'{"task_type": "SEQ_CLS"}',
        "adapter_model.safetensors": b"".join(
            hashlib.sha256(state + b"%d" % i).digest() for i in range(10_000)
        ),
    }


def strike(fault: str, channel: Channel, order: WorkOrder) -> None:
    """Cause the fault that the metadata asks for."""
    work = Path.cwd()
    first = work.name == "1"
    if fault == "kill" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "always kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit" and first:
        sys.exit(3)
    if fault == "nonsense":
        channel.say(Noted.model_construct(type="note", code="?!", message=""))
    if fault == "hang":
        while not channel.is_stop_wanted:
            time.sleep(0.05)
    if fault == "hang once" and first:
        time.sleep(3600)
    if fault == "deaf":  # never stops
        time.sleep(3600)
    if fault == "log":
        for i in range(40_000):
            os.write(2, b"%06d " % i + b"x" * 100 + b"\xff\x00\n")
    if fault == "chatter":
        for _ in range(500):
            channel.say(Noted(code=WarningCode.ENGINE_STOCK, message="blah\x00" * 100))
    if fault == "child" and os.fork() == 0:
        time.sleep(3600)
    if fault == "leave a mess" and first:
        (work / "checkpoint-9").mkdir()
        lie = FileEntry(name="state.bin", size=3, sha256="0" * 64)
        (work / "checkpoint-9" / "state.bin").write_bytes(b"abc")
        channel.say(CheckpointSaved(step=9, directory="checkpoint-9", files=[lie]))
        channel.say(CheckpointSaved(step=8, directory="checkpoint-8", files=[lie]))


def resume(order: WorkOrder) -> tuple[bytes, int]:
    """Resume from a checkpoint with this fingerprint, or start anew."""
    for directory in map(Path, order.checkpoints):
        if json.loads((directory / MANIFEST).read_text())["same"] == FINGERPRINT:
            at = json.loads((directory / "state.json").read_text())
            return bytes.fromhex(at["state"]), at["step"]
    return b"", 0


def save(channel: Channel, state: bytes, step: int) -> None:
    """Write a checkpoint."""
    text = json.dumps({"state": state.hex(), "step": step}).encode()
    name = f"checkpoint-{step}"
    manifest = json.dumps({"same": FINGERPRINT, "step": step}).encode()
    files = write(
        Path(name), {"state.json": text, "optimizer.pt": state * 5000, MANIFEST: manifest}
    )
    channel.say(CheckpointSaved(step=step, directory=name, files=files))


def write(directory: Path, files: dict[str, bytes]) -> list[FileEntry]:
    """Write files; return their entries."""
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return [
        FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    ]


def record(order: WorkOrder, what: str, step: int) -> None:
    """Record an action of this attempt; a short append is atomic."""
    attempt, job = Path.cwd().name, Path.cwd().parent.name
    line = f"{time.monotonic_ns()} {job} {attempt} {os.getpid()} {what} {step}\n"
    with Path(order.model_dir, "..", RECORD).open("ab", buffering=0) as file:
        file.write(line.encode())


if __name__ == "__main__":
    sys.exit(main())
