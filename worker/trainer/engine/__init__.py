"""Reward training on packed rows: what both replies of a pair share is computed once."""

from worker.trainer.engine.probe import ProbeResult, probe
from worker.trainer.engine.support import unsupported_reason
from worker.trainer.engine.trainer import SharedPrefixRewardTrainer

__all__ = ["ProbeResult", "SharedPrefixRewardTrainer", "probe", "unsupported_reason"]
