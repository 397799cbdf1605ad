"""The real fork server, with few imports or with a fake GPU.

Its forks run the ``program.py`` of their directory; where there is none, the fake trainer.
``python -m tests.supervisor.fake_forkserver DIRECTORY`` is a process that owns one, with one fork.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

from tests.supervisor import fake_trainer
from worker.supervisor import fork_client
from worker.supervisor.trainer_process import trainer_environment
from worker.trainer import fork_server

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "worker.trainer.inspection.base_model",
    "worker.trainer.tasks.train",
    "worker.trainer.run_task",
)


def program(call: str) -> str:
    """Return a value of ``fork_client.PROGRAM`` that calls one of the functions below."""
    return (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.supervisor import fake_forkserver; fake_forkserver.{call}"
    )


def serve_light(
    *, is_initialized: bool = False, is_cut_off: bool = False, device_count: int = 1
) -> None:
    """Serve without torch; a replacement reports the given state of CUDA."""
    sys.modules.update({name: ModuleType(name) for name in HEAVY})
    sys.modules["torch"].cuda = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: True,
        is_initialized=lambda: is_initialized,
        device_count=lambda: device_count,
        _is_in_bad_fork=lambda: is_cut_off,
    )
    fork_server.main = main
    fork_server.serve()


def serve_once() -> None:
    """Serve as on a machine without memory or processes for a second fork."""
    fork = os.fork

    def only_once() -> int:
        os.fork = refuse
        return fork()

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = only_once
    serve_light()


def serve_on_gpu() -> None:
    """Serve with all imports of a trainer, on a machine that seems to have a GPU."""
    import torch

    truth = torch.cuda.is_available
    torch.cuda.is_available = lambda: True

    def disenchanted() -> int:
        torch.cuda.is_available = truth
        return main()

    fork_server.main = disenchanted
    fork_server.serve()


def main() -> int:
    """Run in the fork."""
    file = Path("program.py")
    if not file.exists():
        return fake_trainer.main()
    exec(file.read_text(), {})
    return 0


def own(directory: Path) -> None:
    """Print the process ids of a server and of its fork, and keep running."""
    fork_client.PROGRAM = program("serve_light()")
    server = fork_client.ForkClient(trainer_environment(directory))
    server.start()
    while (child := server.spawn(directory, {}, ())) is None:
        time.sleep(0.05)
    print(child.pid, flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    own(Path(sys.argv[1]))
