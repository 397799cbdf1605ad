"""The fork server with real forks: what they inherit, and which processes die together."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.services import wait_until
from tests.supervisor import fake_forkserver, fake_worker
from tests.supervisor.workshop import Workshop
from worker.ipc.fork_protocol import EXIT_UNFIT
from worker.ipc.order import ORDER_FILE, WorkOrder
from worker.supervisor import fork_client, pool
from worker.supervisor.devices import Device
from worker.supervisor.fork_client import ForkClient, ForkedTrainer
from worker.supervisor.trainer_process import ProcessLimits, TrainerProcess, trainer_environment

SECRET = "PLAUDIT_WEBHOOK_SECRET"
#: bitsandbytes has CPU kernels for this.
QUANTIZED = """
import sys
assert "peft" in sys.modules
assert "bitsandbytes" not in sys.modules
import bitsandbytes, torch
from peft import LoraConfig, get_peft_model
model = torch.nn.Sequential(bitsandbytes.nn.Linear4bit(64, 64))
model.is_loaded_in_4bit = True
wrapped = get_peft_model(model.to("cpu"), LoraConfig(target_modules=["0"]))
layer = wrapped.base_model.model[0]
assert type(layer).__module__ == "peft.tuners.lora.bnb", type(layer)
assert wrapped(torch.ones(1, 64)).shape == (1, 64)
"""
PIPES: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
ECHO = "print(input(), flush=True)"


@contextmanager
def started(directory: Path, call: str, device: Device | None = None) -> Iterator[ForkClient]:
    """A server started by a worker with a secret in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "hush")
        patch.setattr(fork_client, "PROGRAM", fake_forkserver.program(call))
        server = ForkClient(trainer_environment(directory, device))
        server.start()
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkClient]:
    """A server without torch."""
    with started(tmp_path_factory.mktemp("light"), "serve_light()") as server:
        wait_until("the server", lambda: server.is_ready)
        yield server


class Fork:
    """A fork that runs a program."""

    def __init__(self, server: ForkClient, directory: Path, program: str, **how: Any) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "program.py").write_text(program)

        def spawn(*given: Any) -> ForkedTrainer:
            child = server.spawn(*given)
            assert child is not None
            self.pid = child.pid
            return child

        self.process = TrainerProcess(directory, spawn, how.pop("keep", ()), **how)

    def answer(self) -> bytes:
        """Send a line and return the line that the fork writes then."""
        self.process.keep_alive()
        return self.process.lines.get(timeout=60) or b""


def is_gone(pid: int) -> bool:
    """Return whether there is no such process, or only a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_fork_has_its_own_session_environment_and_memory_limit(
    light: ForkClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "hush")
    limit = 3 << 30
    program = (
        "import json, os, resource; input(); print(json.dumps(dict("
        "pid=os.getpid(), session=os.getsid(0), directory=os.getcwd(),"
        "environment=dict(os.environ), started_with=open('/proc/self/environ').read(),"
        "limit=resource.getrlimit(resource.RLIMIT_DATA))), flush=True)"
    )
    fork = Fork(light, tmp_path, program, limits=ProcessLimits(limit))
    seen = json.loads(fork.answer())
    assert fork.process.wait() == 0
    assert seen["pid"] == seen["session"] == fork.pid
    assert seen["directory"] == str(tmp_path)
    assert seen["environment"] == trainer_environment(tmp_path)
    assert "PLAUDIT_" not in seen["started_with"]
    assert seen["limit"] == [limit, limit]
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != limit


def test_fork_sees_its_device_and_not_that_of_the_server(tmp_path: Path) -> None:
    program = (
        "import ctypes, os; getenv = ctypes.CDLL(None).getenv; getenv.restype = ctypes.c_char_p;"
        "input(); print(os.environ['CUDA_VISIBLE_DEVICES'],"
        "getenv(b'CUDA_VISIBLE_DEVICES').decode(), flush=True)"
    )
    first, second = Device("GPU-1", "H100", 1), Device("MIG-2", "H100", 1)
    with started(tmp_path, "serve_light()", first) as server:
        wait_until("the server", lambda: server.is_ready)
        # libcuda reads the variable with getenv() when a trainer first uses CUDA.
        fork = Fork(server, tmp_path, program, device=second)
        assert fork.answer().split() == [b"MIG-2", b"MIG-2"]
        fork.process.wait()


def test_lower_memory_limit_of_the_operator_is_kept(tmp_path: Path) -> None:
    own = (2 << 30, 2 << 30)

    def spawn(*_: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sleep", "600"], **PIPES)
        resource.prlimit(child.pid, resource.RLIMIT_DATA, own)
        return child

    process = TrainerProcess(tmp_path, spawn, (), limits=ProcessLimits(3 << 30))
    assert resource.prlimit(process._child.pid, resource.RLIMIT_DATA) == own
    process.kill()
    process.wait()


def test_trainer_that_exits_before_it_is_limited_has_its_status(tmp_path: Path) -> None:
    def spawn(*_: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sh", "-c", "exit 3"], **PIPES)
        child.wait()
        return child

    assert TrainerProcess(tmp_path, spawn, (), limits=ProcessLimits(3 << 30)).wait() == 3


def test_process_that_left_the_session_does_not_block_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.trainer_process.DRAIN_PIPES_SECONDS", 0.2)
    process = TrainerProcess(
        tmp_path,
        lambda *_: subprocess.Popen(["sh", "-c", "setsid sleep 600 >&2 & echo $!"], **PIPES),
        (),
    )
    escaped = psutil.Process(int(process.lines.get(timeout=60) or b""))
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    waiting.join(timeout=30)
    is_waiting = waiting.is_alive()
    escaped.kill()
    for thread in (waiting, *process._readers):
        thread.join()
    process.wait()  # closes the pipes that it could not close before
    assert not is_waiting


def test_memory_limit_does_not_limit_the_address_space(light: ForkClient, tmp_path: Path) -> None:
    """A CUDA driver reserves more address space than the GPU has memory and uses little of it."""
    program = (
        "import mmap\n"
        "reserved = mmap.mmap(-1, 256 << 30, mmap.MAP_PRIVATE, prot=0)\n"
        "try: bytearray(4 << 30)\n"
        "except MemoryError: print('refused', flush=True)"
    )
    fork = Fork(light, tmp_path, f"input()\n{program}", limits=ProcessLimits(3 << 30))
    assert fork.answer() == b"refused\n"
    assert fork.process.wait() == 0


def test_killed_fork_leaves_the_others_running(light: ForkClient, tmp_path: Path) -> None:
    first, second = (Fork(light, tmp_path / name, ECHO) for name in ("first", "second"))
    os.kill(first.pid, signal.SIGKILL)
    assert first.process.wait() == -signal.SIGKILL
    assert light.is_alive
    third = Fork(light, tmp_path / "third", "import os; os._exit(3)")
    assert third.process.wait() == 3
    assert second.answer() == b"k\n"
    assert second.process.wait() == 0


def test_failed_fork_leaves_the_others_running(tmp_path: Path) -> None:
    with started(tmp_path, "serve_once()") as server:
        wait_until("the server", lambda: server.is_ready)
        fork = Fork(server, tmp_path, ECHO)
        assert server.spawn(tmp_path, {}, ()) is None
        assert fork.answer() == b"k\n"
        assert fork.process.wait() == 0


def test_frozen_server_does_not_delay_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path, "serve_light()") as server:
        wait_until("the server", lambda: server.is_ready)
        fork = Fork(server, tmp_path, ECHO)
        frozen = server._server
        assert frozen is not None
        frozen.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(fork_client, "FORK_SECONDS", 0.2)
            assert server.spawn(tmp_path, {}, ()) is None
        frozen.send_signal(signal.SIGCONT)
        assert Fork(server, tmp_path / "next", "").process.wait() == 0
        assert fork.answer() == b"k\n"
        assert fork.process.wait() == 0


def test_fork_that_raises_writes_a_traceback(light: ForkClient, tmp_path: Path) -> None:
    fork = Fork(light, tmp_path, "raise OSError('no such luck')")
    assert fork.process.wait() == 1
    assert "OSError: no such luck" in fork.process.take_log(1 << 20)


def test_server_and_forks_die_with_their_owner(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time; time.sleep(3600)")
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.supervisor.fake_forkserver", str(tmp_path)],
        cwd=fake_forkserver.ROOT,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        fork = psutil.Process(int(owner.stdout.readline()))
        server = fork.parent()
        assert server is not None
        assert server.ppid() == owner.pid
        owner.kill()
        wait_until("the server to be gone", lambda: is_gone(server.pid))
        wait_until("its fork to be gone", lambda: is_gone(fork.pid))


def test_job_of_a_killed_server_continues_in_a_fresh_interpreter(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold: list[Path] = []

    def spawn_cold(directory: Path, *given: Any) -> Any:
        cold.append(directory)
        return fake_worker.spawn_fake(directory, *given)

    monkeypatch.setattr(pool, "ForkClient", ForkClient)
    monkeypatch.setattr(pool, "spawn_cold", spawn_cold)
    monkeypatch.setattr(pool, "SEEN_SECONDS", 600)  # else the server would be restarted
    monkeypatch.setattr(fork_client, "PROGRAM", fake_forkserver.program("serve_light()"))
    with workshop.running_pool() as worker:
        wait_until("the server", lambda: worker._fork_client.is_ready)
        job_id = workshop.submit(metadata={"fault": "hang once", "fault_step": 4, "steps": 7})
        workshop.wait_step(job_id, 4)
        assert cold == []
        server = worker._fork_client._server
        assert server is not None
        server.kill()
        job = workshop.wait(job_id, "succeeded", "failed")
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert [directory.name for directory in cold] == ["2", "2"]  # the training and its check
    assert workshop.adapter(job_id) == workshop.expected(7)


def test_bitsandbytes_is_loaded_in_the_fork_only(tmp_path: Path) -> None:
    with started(tmp_path, "serve_on_gpu()") as server:
        wait_until("the server", lambda: server.is_ready, 180)
        fork = Fork(server, tmp_path, QUANTIZED)
        fork.process.keep_alive()
        status = fork.process.wait()
    assert status == 0, fork.process.take_log(1 << 20)


def test_server_that_initialised_cuda_is_not_restarted(tmp_path: Path) -> None:
    with started(tmp_path, "serve_light(is_initialized=True)") as server:
        wait_until("the server to end", lambda: not server.is_alive)
        ended = server._server
        assert ended is not None
        assert ended.returncode == EXIT_UNFIT
        server.start()
        assert server._server is ended
        assert server.spawn(tmp_path, {}, ()) is None


@pytest.mark.parametrize(
    ("uuid", "device_count"),
    [("GPU-1", 1), ("MIG-1", 0)],  # torch sees no MIG device in a fork that CUDA refuses
)
def test_fork_without_cuda_starts_in_a_fresh_interpreter(
    tmp_path: Path, uuid: str, device_count: int
) -> None:
    order = WorkOrder(action="inspect", model_dir=str(tmp_path), model_name="tiny")
    (tmp_path / ORDER_FILE).write_text(order.model_dump_json())
    with (
        started(tmp_path, f"serve_light(is_cut_off=True, {device_count=})") as server,
        (tmp_path / "lock").open("w") as lock,
    ):
        wait_until("the server", lambda: server.is_ready)
        device = Device(uuid, "H100", 1)
        fork = Fork(server, tmp_path, ECHO, keep=(lock.fileno(),), device=device)
        trainer = psutil.Process(fork.pid)
        fresh = [sys.executable, "-P", "-m", "worker.trainer"]
        wait_until("a fresh interpreter", lambda: trainer.cmdline() == fresh)
        assert os.getsid(fork.pid) == fork.pid
        assert lock.name in [file.path for file in trainer.open_files()]
        fork.process.kill()
        fork.process.wait()
