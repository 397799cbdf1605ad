"""The shared-prefix backend: reward training on packed rows that compute a common prefix once."""

from worker.trainer.shared_prefix.parity_check import (
    ParityResult,
    check_disentangled,
    check_parity,
)
from worker.trainer.shared_prefix.support import unsupported_reason
from worker.trainer.shared_prefix.trainer import SharedPrefixRewardTrainer

__all__ = [
    "ParityResult",
    "SharedPrefixRewardTrainer",
    "check_disentangled",
    "check_parity",
    "unsupported_reason",
]
