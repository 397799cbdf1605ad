"""Start programs of this service that end with the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import structlog

log = structlog.get_logger()


def start_module(
    name: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes] | None:
    """Start ``python -m <name> --with-parent <this process>`` in a session of its own.

    Return None, and log the cause, if the machine cannot start a process now.
    """
    try:
        return subprocess.Popen(
            # -P: a directory of this name in the current directory must not be imported.
            [sys.executable, "-P", "-m", name, "--with-parent", str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach only the API, which stops its children
        )
    except OSError:  # no memory, or too many processes
        log.exception("process_not_started", module=name)
        return None
