"""``python -m worker.trainer``: carry out the order in the working directory.

Nothing heavy is imported before the watchdog runs: loading torch takes seconds, and a supervisor
that dies meanwhile must not leave a trainer behind.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

from app.domain.order import ORDER_FILE, WorkOrder
from worker.trainer.channel import Channel, die_with_parent


def main() -> int:
    """Run to the end; returns the exit status that ``app.domain.order`` names."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which says stop
    channel = Channel()
    order = WorkOrder.model_validate_json(Path(ORDER_FILE).read_bytes())
    channel.watch(order.watchdog_seconds)
    prepare_environment(order.threads)
    from worker.trainer.run import carry_out

    return carry_out(order, channel)


def prepare_environment(threads: int) -> None:
    """What the libraries read at import: no network, one GPU, a fixed thread count."""
    # PEFT reads this property by its old name. Nobody who reads the log can do anything about it.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # Of several GPUs the first: transformers would spread a batch over all that it sees.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ.update(
        CUDA_VISIBLE_DEVICES=gpus.partition(",")[0],
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="true" if threads > 1 else "false",
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
    )


if __name__ == "__main__":
    sys.exit(main())
