"""Settings of the libraries that a scoring process loads; import this module before them."""

from __future__ import annotations

import os
import warnings


def prepare_libraries(threads: int) -> None:
    """Set what the libraries read at import: no network, thread counts."""
    # PEFT reads this property by its old name. Users cannot prevent the warning.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="true" if threads > 1 else "false",
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
    )
