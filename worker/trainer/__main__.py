"""``python -m worker.trainer``: run the order in the working directory.

Nothing heavy is imported before the watchdog runs: importing torch takes seconds, and a supervisor
that dies meanwhile must not leave a trainer behind.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from worker.ipc.channel import Channel
from worker.ipc.order import ORDER_FILE, WorkOrder
from worker.ipc.parent_death import die_with_parent
from worker.trainer.environment import prepare_environment


def main() -> int:
    """Run the order and return one of the exit statuses in ``worker.ipc.order``."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    channel = Channel()
    order = WorkOrder.model_validate_json(Path(ORDER_FILE).read_bytes())
    channel.watch(order.watchdog_seconds)
    prepare_environment(order.threads)
    from worker.trainer.run_task import run_task

    return run_task(order, channel)


if __name__ == "__main__":
    sys.exit(main())
