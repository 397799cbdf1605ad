"""Limits of a trainer, and the failures of trainers that exceed them."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.job_queue import kinds
from tests.supervisor.test_warm import PIPES
from worker.ipc.order import WorkOrder
from worker.supervisor import memory_limits
from worker.supervisor.memory_limits import BASE_BYTES, BYTES_PER_MODEL_BYTE, memory_limit
from worker.supervisor.trainer_process import ProcessLimits, TrainerProcess
from worker.supervisor.trainer_session import _crash

GIB = 1 << 30
#: Seven normalizers that each make a letter sixteen times as long.
GROWING_TOKENIZER = """
from tokenizers import Tokenizer, models, normalizers
from worker.reward_model.process_limits import tokenizer_limits
tokenizer = Tokenizer(models.WordLevel({"e": 0}, unk_token="e"))
tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("e", "e" * 16)] * 7)
with tokenizer_limits(cpu_seconds=60, memory_bytes=256 << 20):
    tokenizer.encode("even the text here")
"""
#: A call in C, during which Python runs no handler of a signal.
SLOW_CALL = """
import hashlib
from worker.reward_model.process_limits import tokenizer_limits
with tokenizer_limits(cpu_seconds=0.1, memory_bytes=1 << 30):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def end_of(program: str, tmp_path: Path) -> TrainerProcess:
    def spawn(*_: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program], **PIPES)

    process = TrainerProcess(tmp_path, spawn, (), limits=ProcessLimits(oom_score_adj=500))
    process.wait()
    return process


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (GROWING_TOKENIZER, FailureCode.OUT_OF_MEMORY),
        (SLOW_CALL, FailureCode.MODEL_UNSUPPORTED),
        ("import os; os.abort()", FailureCode.TRAINER_CRASHED),
        ("import os; os.kill(os.getpid(), 9)", FailureCode.TRAINER_CRASHED),
    ],
    ids=["growing tokenizer", "slow tokenizer", "abort", "kill"],
)
def test_end_of_a_trainer_is_told(
    program: str, code: FailureCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limits, "OOM_COUNTERS", ())  # another process of the machine
    process = end_of(program, tmp_path)
    failure = _crash(process._status, ran_out_of_memory=process.ran_out_of_memory)
    assert failure.code is code
    if code is not FailureCode.TRAINER_CRASHED:
        assert not code.failure.is_retryable


@pytest.mark.parametrize(
    "text", ["low 0\noom_kill {}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"]
)
def test_kill_is_for_memory_if_the_kernel_counted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    counter = tmp_path / "events"
    monkeypatch.setattr(memory_limits, "OOM_COUNTERS", (tmp_path / "missing", counter))
    counter.write_text(text.format(3))

    def spawn(*_: Any) -> subprocess.Popen[bytes]:
        counter.write_text(text.format(4))
        return subprocess.Popen(["sh", "-c", "kill -9 $$"], **PIPES)

    process = TrainerProcess(tmp_path, spawn, ())
    assert process.wait() == -9
    assert process.ran_out_of_memory


def test_trainer_is_ended_before_the_worker_and_leaves_no_core_file(tmp_path: Path) -> None:
    def spawn(*_: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"], **PIPES)

    process = TrainerProcess(tmp_path, spawn, (), limits=ProcessLimits(oom_score_adj=1000))
    pid = process._child.pid
    try:
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("machine", "model_bytes", "expected"),
    [
        (256 * GIB, 0, BASE_BYTES),
        (256 * GIB, 1 << 20, BASE_BYTES + BYTES_PER_MODEL_BYTE * (1 << 20)),
        (9 * GIB, 1 << 20, 3 * GIB),
        (2 * GIB, 1 << 20, 2 * GIB),
    ],
    ids=["base", "tokenizer", "machine", "least"],
)
def test_memory_of_an_inspection_follows_its_inputs_and_the_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: int,
    model_bytes: int,
    expected: int,
) -> None:
    monkeypatch.setattr(memory_limits, "machine_memory_bytes", lambda: machine)
    (tmp_path / "tokenizer.json").write_bytes(bytes(model_bytes))
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    order = WorkOrder(
        action="inspect", model_dir=str(tmp_path), model_name="tiny", watchdog_seconds=1,
        revision=None, chat_template=None,
    )  # fmt: skip
    assert memory_limit(Settings(), kinds.INSPECT, order, tmp_path) == expected
    assert memory_limit(Settings(), kinds.TRAIN, order, tmp_path) is None
    fixed = replace(kinds.INSPECT, memory_bytes=lambda _settings: 7 * GIB)
    assert memory_limit(Settings(), fixed, order, tmp_path) == 7 * GIB
