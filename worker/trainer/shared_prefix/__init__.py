"""Reward training on packed rows: what both replies of a pair share is computed once."""

from worker.trainer.shared_prefix.probe import ProbeResult, probe
from worker.trainer.shared_prefix.support import unsupported_reason
from worker.trainer.shared_prefix.trainer import SharedPrefixRewardTrainer

__all__ = ["ProbeResult", "SharedPrefixRewardTrainer", "probe", "unsupported_reason"]
