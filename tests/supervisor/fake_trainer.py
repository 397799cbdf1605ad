"""A trainer without torch that uses the same protocol and follows the job's metadata.

Its training is a chain of hashes, so that a resumed run gives the same adapter only if it continued
exactly from its checkpoint. Each step is recorded in a file next to the base model. Once the file
``hurry`` is there, too, steps take no time.

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
from collections.abc import Callable
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
    Verified,
)
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    MANIFEST,
    ORDER_FILE,
    VERIFY,
    WorkOrder,
)
from worker.ipc.parent_death import die_with_parent

RECORD = "record"
HURRY = "hurry"
FINGERPRINT = {"engine": "hashes"}
Fault = Callable[[Channel], None]


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
    """Run until the end that the metadata request."""
    order = WorkOrder.model_validate_json(Path(ORDER_FILE).read_bytes())
    assert order.spec is not None
    told: dict[str, Any] = order.spec.get("metadata", {})  # type: ignore[assignment]
    fault = str(told.get("fault", ""))
    channel = open_channel(order, fault)
    if order.action == VERIFY:
        channel.send(Verified(certificate={"is_verified": True}))
        return EXIT_DONE
    state, step = resume(order)
    state, step, is_stopped = train(order, channel, told, state, step)
    if is_stopped:
        channel.send(Stopped(step=step))
        return EXIT_STOPPED
    if fault == "fail":
        channel.send(Failed(code=FailureCode.NAN_LOSS, detail="loss is\x00nan", step=step))
        return EXIT_FAILED
    files = write(Path("adapter"), package(state))
    channel.send(Packaged(directory="adapter", files=files))
    if fault == "linger":
        time.sleep(3600)
    return EXIT_DONE


def open_channel(order: WorkOrder, fault: str) -> Channel:
    """Return the channel; a trainer that must outlive its worker has no watchdog."""
    if fault == "outlive":
        return Outliving()
    die_with_parent()
    channel = Channel()
    channel.watch(order.watchdog_seconds)
    return channel


def train(
    order: WorkOrder, channel: Channel, told: dict[str, Any], state: bytes, step: int
) -> tuple[bytes, int, bool]:
    """Do the steps; return the state, the last step and whether the supervisor stopped the run."""
    steps, pause = int(told.get("steps", 5)), int(told.get("step_ms", 20)) / 1000
    every = int(told.get("checkpoint_steps", 3))
    pairs = Path(order.train_file or "").read_bytes()
    channel.send(PhaseChanged(phase=Phase.TRAINING))
    record(order, "start", step)
    hurry = Path(order.model_dir, "..", HURRY)
    while step < steps:
        if not hurry.exists():
            time.sleep(pause)
        step += 1
        state = next_state(state, pairs, step)
        record(order, "step", step)
        metrics = {"train/loss": 1 / step}
        channel.send(Stepped(step=step, total_steps=steps, epoch=step / steps, metrics=metrics))
        if step == int(told.get("fault_step", 2)):
            FAULTS.get(str(told.get("fault")), lambda _: None)(channel)
        if channel.is_stop_wanted or step % every == 0:
            save(channel, state, step)
        if channel.is_stop_wanted:
            return state, step, True
    return state, step, False


class Outliving(Channel):
    """A channel of a trainer that continues without a supervisor and has no watchdog."""

    def send(self, message: Message) -> None:
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


def is_first_attempt() -> bool:
    """Return whether this is the first attempt at its job."""
    return Path.cwd().name == "1"


def kill(_: Channel) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with_error(_: Channel) -> None:
    sys.exit(3)


def hang(_: Channel) -> None:
    time.sleep(3600)


def hang_until_stopped(channel: Channel) -> None:
    while not channel.is_stop_wanted:
        time.sleep(0.05)


def send_unknown_message(channel: Channel) -> None:
    channel.send(Noted.model_construct(type="note", code="?!", message=""))


def write_much_log(_: Channel) -> None:
    for i in range(40_000):
        os.write(2, b"%06d " % i + b"x" * 100 + b"\xff\x00\n")


def send_many_messages(channel: Channel) -> None:
    for _ in range(500):
        channel.send(Noted(code=WarningCode.ENGINE_STOCK, message="blah\x00" * 100))


def leave_child(_: Channel) -> None:
    if os.fork() == 0:
        time.sleep(3600)


def send_wrong_checkpoints(channel: Channel) -> None:
    directory = Path("checkpoint-9")
    directory.mkdir()
    (directory / "state.bin").write_bytes(b"abc")
    wrong = FileEntry(name="state.bin", size=3, sha256="0" * 64)
    channel.send(CheckpointSaved(step=9, directory="checkpoint-9", files=[wrong]))
    channel.send(CheckpointSaved(step=8, directory="checkpoint-8", files=[wrong]))


def once(fault: Fault) -> Fault:
    """Restrict a fault to the first attempt."""
    return lambda channel: fault(channel) if is_first_attempt() else None


#: Actions at ``fault_step``, by the ``fault`` of the metadata.
FAULTS: dict[str, Fault] = {
    "kill": once(kill),
    "always kill": kill,
    "exit": once(exit_with_error),
    "nonsense": send_unknown_message,
    "hang": hang_until_stopped,
    "hang once": once(hang),
    "deaf": hang,
    "log": write_much_log,
    "chatter": send_many_messages,
    "child": leave_child,
    "leave a mess": once(send_wrong_checkpoints),
}


def resume(order: WorkOrder) -> tuple[bytes, int]:
    """Resume from a checkpoint with this fingerprint, or start from the beginning."""
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
    channel.send(CheckpointSaved(step=step, directory=name, files=files))


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
