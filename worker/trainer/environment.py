"""Environment variables that libraries read at import; import this module before them."""

from __future__ import annotations

import os


def prepare_environment(threads: int) -> None:
    """What the libraries read at import: no network, one GPU, a fixed thread count."""
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
