"""A resident process with torch, transformers, trl and peft loaded, from which trainers are forked.

Loading these libraries takes seconds, a fork takes milliseconds. The server does nothing else: it
computes no tensors and does not initialise CUDA, because neither works after a fork. If a library
initialises CUDA at import, the server exits with EXIT_UNFIT. Each fork is a process in a session of
its own, so that a crashed or killed job affects no other process.

The server ends with the thread that started it, and each fork ends with the server.

It is started as ``python -P -m worker.trainer.fork_server`` with a SOCK_SEQPACKET socket as fd 3. A
request is one JSON datagram ``{"directory", "environment"}`` with file descriptors: the fork's
status socket, stdin, stdout, stderr, and any that the fork must keep open, such as a slot's lock.
On the status socket the server sends the fork's pid, and later its exit status (negative: the
signal).
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress

from worker.ipc.fork_protocol import EXIT_UNFIT
from worker.ipc.order import EXIT_WATCHDOG
from worker.ipc.parent_death import die_with_parent
from worker.trainer.__main__ import main
from worker.trainer.environment import prepare_environment

CONTROL_FD = 3
MAX_REQUEST_BYTES = 64 << 10
MAX_FDS = 8
#: Sent instead of a pid if the system cannot fork.
NO_FORK = -1


def serve() -> None:
    """Fork on request until the control socket closes."""
    die_with_parent()
    prepare_environment(threads=1)
    _import_trainer()
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
    """Fork for one request; return False when the control socket is closed."""
    request, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, MAX_FDS)
    if not request:
        return False
    status = socket.socket(fileno=descriptors[0])
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError:  # out of memory or processes: the running forks must survive it
        pid = NO_FORK
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
    if pid == NO_FORK:
        status.close()  # tells the client that there is no fork
    else:
        running[pid] = status
        with suppress(BrokenPipeError):  # the client no longer waits
            status.send(str(pid).encode())
    return True


def _become_trainer(request: dict[str, object], streams: list[int]) -> None:
    """In the fork: set up the state of a fresh interpreter, then run the trainer."""
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
        if _is_cut_off_from_cuda():
            sys.stderr.write("the fork server has used CUDA: starting a fresh interpreter\n")
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, "-P", "-m", "worker.trainer"])  # noqa: S606
        gc.unfreeze()
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - report it as an interpreter does at its end
        traceback.print_exc()
    finally:
        # Skips exit handlers, which belong to the server.
        os._exit(status)


def _reap(running: dict[int, socket.socket]) -> None:
    """Report the exit statuses of ended forks."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as sock, suppress(BrokenPipeError):  # the client is gone
            sock.send(str(os.waitstatus_to_exitcode(status)).encode())


def _import_trainer() -> None:
    """Import what a trainer imports; the forks share the frozen objects."""
    # Detect GPUs through NVML: a check through the CUDA runtime would prevent its use in the forks.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    # peft imports bitsandbytes, which initialises CUDA to choose its kernels. Without a GPU it can
    # be imported here, which saves each fork a second of CPU time.
    is_held_back = torch.cuda.is_available()
    if is_held_back:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    import worker.trainer.inspection.base_model
    import worker.trainer.run_task
    import worker.trainer.tasks.train  # noqa: F401

    if is_held_back:
        del sys.modules["bitsandbytes"]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        sys.stderr.write("a library initialised CUDA in the fork server: jobs start cold\n")
        sys.exit(EXIT_UNFIT)
    gc.collect()
    gc.freeze()


def _is_cut_off_from_cuda() -> bool:
    """In a fork: return whether there is a GPU that forks of this server cannot use."""
    import torch

    if not torch.cuda._is_in_bad_fork():
        return False
    # torch finds MIG devices only through CUDA, which forks cannot use, so that they see no device.
    is_mig = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-")
    return is_mig or torch.cuda.device_count() > 0


if __name__ == "__main__":
    serve()
