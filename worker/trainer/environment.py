"""Environment variables that libraries read at import; import this module before them."""

from __future__ import annotations

import os
import warnings


def prepare_environment(threads: int) -> None:
    """Set the variables that the libraries read at import: no network, one GPU, thread counts.

    The supervisor names one device, by UUID. If several are visible, as in a program that is
    started by hand, only the first one stays visible, because transformers would split batches over
    all of them.
    """
    # PEFT reads this property by its old name. Users cannot prevent the warning.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ.update(
        CUDA_VISIBLE_DEVICES=devices.partition(",")[0],
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="true" if threads > 1 else "false",
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
    )
