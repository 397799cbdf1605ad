"""The fork server with real forks: which of them has CUDA."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain.order import ORDER_FILE, WorkOrder
from tests.services import wait_until
from tests.worker import fake_forkserver
from worker import warm
from worker.process import TrainerProcess, trainer_environment
from worker.trainer.forkserver import EXIT_UNFIT
from worker.warm import ForkServer, WarmChild

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
ECHO = "print(input(), flush=True)"


@contextmanager
def started(directory: Path, call: str) -> Iterator[ForkServer]:
    """A server that a worker with a secret started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "hush")
        patch.setattr(warm, "PROGRAM", fake_forkserver.program(call))
        server = ForkServer(trainer_environment(directory))
        server.start()
        try:
            yield server
        finally:
            server.close()


class Fork:
    """A fork that runs a program."""

    def __init__(self, server: ForkServer, directory: Path, program: str, **how: Any) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "program.py").write_text(program)

        def spawn(*given: Any) -> WarmChild:
            child = server.spawn(*given)
            assert child is not None
            self.pid = child.pid
            return child

        self.process = TrainerProcess(directory, spawn, how.pop("keep", ()), **how)


def test_bitsandbytes_is_loaded_in_the_fork_only(tmp_path: Path) -> None:
    with started(tmp_path, "serve_on_gpu()") as server:
        wait_until("the server", lambda: server.is_ready, 180)
        fork = Fork(server, tmp_path, QUANTIZED)
        fork.process.keep_alive()
        status = fork.process.wait()
    assert status == 0, fork.process.take_log(1 << 20)


def test_server_that_woke_cuda_ends_for_good(tmp_path: Path) -> None:
    with started(tmp_path, "serve_light(is_initialized=True)") as server:
        wait_until("the server to end", lambda: not server.is_alive)
        ended = server._server
        assert ended is not None
        assert ended.returncode == EXIT_UNFIT
        server.start()
        assert server._server is ended
        assert server.spawn(tmp_path, {}, ()) is None


def test_fork_that_cuda_refuses_starts_in_a_fresh_interpreter(tmp_path: Path) -> None:
    order = WorkOrder(action="inspect", model_dir=str(tmp_path), model_name="tiny")
    (tmp_path / ORDER_FILE).write_text(order.model_dump_json())
    with (
        started(tmp_path, "serve_light(is_cut_off=True)") as server,
        (tmp_path / "lock").open("w") as lock,
    ):
        wait_until("the server", lambda: server.is_ready)
        fork = Fork(server, tmp_path, ECHO, keep=(lock.fileno(),))
        trainer = psutil.Process(fork.pid)
        fresh = [sys.executable, "-P", "-m", "worker.trainer"]
        wait_until("a fresh interpreter", lambda: trainer.cmdline() == fresh)
        assert os.getsid(fork.pid) == fork.pid
        assert lock.name in [file.path for file in trainer.open_files()]
        fork.process.kill()
        fork.process.wait()
