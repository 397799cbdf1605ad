"""A resident process with torch, transformers, trl and peft loaded: jobs start as its forks.

Loading them takes seconds, a fork milliseconds. The server itself does nothing else: it runs no
tensor maths and never touches CUDA, since neither survives a fork. Each fork is a process of its
own session, so a crashed or killed job takes nothing with it.

Chain of deaths: this process dies with the thread that started it, and each fork with this process.

Started as ``python -P -m worker.trainer.forkserver`` with a SOCK_SEQPACKET socket as fd 3. A
request is one JSON datagram ``{"directory", "environment"}`` with descriptors: the fork's status
socket, stdin, stdout, stderr, and whatever else it shall hold (a slot's lock). On the status socket
the server sends the fork's pid, and its exit status (negative: the signal) when it ended.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys

from app.domain.order import EXIT_WATCHDOG
from worker.trainer.__main__ import main, prepare_environment
from worker.trainer.channel import die_with_parent

CONTROL_FD = 3
MAX_REQUEST = 64 << 10
MAX_FDS = 8


def serve() -> None:
    """Fork on request until the control socket closes."""
    die_with_parent()
    prepare_environment(threads=1)
    _load()
    control = socket.socket(fileno=CONTROL_FD)
    wake_up, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, socket.socket] = {}
    control.send(b"ready")
    while True:
        ready, _, _ = select.select([control.fileno(), wake_up], [], [])
        if wake_up in ready:
            os.read(wake_up, 4096)
            _reap(running)
        if control.fileno() in ready and not _take_request(control, wake_up, wake_end, running):
            return


def _take_request(
    control: socket.socket, wake_up: int, wake_end: int, running: dict[int, socket.socket]
) -> bool:
    request, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, MAX_FDS)
    if not request:
        return False
    status = socket.socket(fileno=descriptors[0])
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        if os.getppid() != server:
            os._exit(EXIT_WATCHDOG)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for other in (control.detach(), status.detach(), wake_up, wake_end):
            os.close(other)
        for sock in running.values():
            os.close(sock.detach())
        _become_trainer(json.loads(request), descriptors[1:4])
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    running[pid] = status
    status.send(str(pid).encode())
    return True


def _become_trainer(request: dict[str, object], streams: list[int]) -> None:
    """In the fork: what a fresh interpreter would have been given, then the trainer itself."""
    status = 1
    try:
        os.setsid()
        for target, descriptor in enumerate(streams):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(str(request["directory"]))
        environment = request["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        gc.unfreeze()
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # The server's own exit handlers are not the fork's to run.
        os._exit(status)


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as sock:
            try:
                sock.send(str(os.waitstatus_to_exitcode(status)).encode())
            except BrokenPipeError:
                continue  # who asked is gone; there is nobody to tell


def _load() -> None:
    """Import what a trainer imports; frozen objects stay shared between the forks."""
    import worker.trainer.inspection
    import worker.trainer.job
    import worker.trainer.run  # noqa: F401

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    serve()
