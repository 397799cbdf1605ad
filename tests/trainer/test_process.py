"""The trainer process: stdout carries only messages, and it never outlives its supervisor."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from app.domain.progress import MESSAGE, Stopped
from tests.model_factories import ROOT
from tests.model_factories.trainer_process import run_trainer, write_order
from worker.ipc.order import EXIT_STOPPED, EXIT_WATCHDOG, KEEP_ALIVE, STOP, WorkOrder

#: In place of torch: creates a file when it is imported, and never returns.
SLOW_TORCH = """
import os, time
print("a library prints")
open("importing", "w").close()
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def order(tmp_path: Path) -> WorkOrder:
    return WorkOrder(action="inspect", model_dir=str(tmp_path), model_name="none")


@pytest.fixture
def slow_path(tmp_path: Path) -> str:
    (tmp_path / "fakes" / "torch").mkdir(parents=True)
    (tmp_path / "fakes" / "torch" / "__init__.py").write_text(SLOW_TORCH)
    return f"{tmp_path / 'fakes'}:{ROOT}"


def start(work: Path, path: str, log: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.trainer"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def test_trainer_exits_when_the_supervisor_is_gone_even_during_imports(
    tmp_path: Path, order: WorkOrder, slow_path: str
) -> None:
    write_order(tmp_path, order)
    with start(tmp_path, slow_path) as process:
        wait_for(tmp_path / "importing")
        out, log = process.communicate()  # closes its stdin
    assert process.returncode == EXIT_WATCHDOG
    assert out == b""  # output of libraries does not reach the supervisor
    assert b"a library prints" in log
    assert b"the supervisor is gone" in log


def test_trainer_exits_without_keep_alives(
    tmp_path: Path, order: WorkOrder, slow_path: str
) -> None:
    write_order(tmp_path, order.model_copy(update={"watchdog_seconds": 0.2}))
    with start(tmp_path, slow_path) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(KEEP_ALIVE)
        process.stdin.flush()
        assert process.wait() == EXIT_WATCHDOG
        assert b"no keep-alive" in process.stderr.read()


def test_trainer_exits_although_its_log_is_no_longer_read(
    tmp_path: Path, order: WorkOrder, slow_path: str
) -> None:
    write_order(tmp_path, order)
    readable, log = os.pipe()
    with start(tmp_path, slow_path, log) as process:
        os.close(log)
        wait_for(tmp_path / "importing")
        os.close(readable)
        process.communicate()  # closes its stdin
    assert process.returncode == EXIT_WATCHDOG


def test_trainer_exits_without_keep_alives_although_its_log_is_full(
    tmp_path: Path, order: WorkOrder, slow_path: str
) -> None:
    """The log of a frozen supervisor fills up."""
    write_order(tmp_path, order.model_copy(update={"watchdog_seconds": 0.2}))
    readable, log = os.pipe()
    os.write(log, b"x" * fcntl.fcntl(log, fcntl.F_GETPIPE_SZ))
    with start(tmp_path, slow_path, log) as process:
        os.close(log)
        assert process.wait(timeout=60) == EXIT_WATCHDOG
    os.close(readable)


def test_trainer_dies_with_the_process_that_started_it(
    tmp_path: Path, order: WorkOrder, slow_path: str
) -> None:
    write_order(tmp_path, order)
    supervisor = textwrap.dedent(
        """
        import subprocess, sys, time
        keep, _ = __import__("os").pipe()
        child = subprocess.Popen([sys.executable, "-m", "worker.trainer"], stdin=keep)
        print(child.pid, flush=True)
        time.sleep(600)
        """
    )
    # The supervisor's pipe stays open in the trainer, so that only the parent's death ends it.
    with subprocess.Popen(
        [sys.executable, "-c", supervisor],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": slow_path},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_for(tmp_path / "importing")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.02)


@pytest.mark.train
def test_stdout_carries_only_messages(tmp_path: Path, order: WorkOrder) -> None:
    # Every line of stdout is validated there; a fresh interpreter also prints what imports print.
    outcome = run_trainer(tmp_path / "work", order, env={"PYTHONUNBUFFERED": "1"})
    assert outcome.status == 1
    assert [message.type for message in outcome.messages] == ["failed"]
    assert MESSAGE.validate_json(outcome.messages[0].model_dump_json()) == outcome.messages[0]


@pytest.mark.parametrize("is_early", [True, False], ids=["before the block", "within the block"])
def test_request_to_stop_ends_work_that_leaves_nothing_to_save(is_early: bool) -> None:
    code = """
        import sys, time
        from worker.ipc.channel import Channel
        channel = Channel()
        channel.watch(60)
        while "early" in sys.argv and not channel.is_stop_wanted:
            time.sleep(0.01)
        with channel.exiting_on_stop():
            if channel.is_stop_wanted:
                sys.exit(75)
            print("loading", file=sys.stderr, flush=True)
            time.sleep(60)
    """
    program = [sys.executable, "-c", textwrap.dedent(code), *(["early"] if is_early else [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        if not is_early:
            assert process.stderr.readline() == b"loading\n"
        began = time.monotonic()
        process.stdin.write(KEEP_ALIVE + STOP)
        process.stdin.flush()
        assert process.wait() == EXIT_STOPPED
        assert time.monotonic() - began < 30
        assert is_early or MESSAGE.validate_json(process.stdout.read()) == Stopped(step=0)
