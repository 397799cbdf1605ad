"""Typed views of the keyword arguments that a plan stores for PEFT and TRL.

A plan keeps these arguments as JSON, exactly as ``peft.LoraConfig`` and ``trl.RewardConfig``
receive them. The classes here read the arguments that Plaudit itself uses and ignore the others.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class LoraArguments(_Arguments):
    """Arguments of ``peft.LoraConfig``."""

    r: int
    lora_dropout: float
    target_modules: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    use_dora: bool


class RewardArguments(_Arguments):
    """Arguments of ``trl.RewardConfig``. Batch sizes count preference pairs."""

    num_train_epochs: float
    max_steps: int  # -1 when num_train_epochs decides
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    eval_steps: int | None
    seed: int
    optim: str = "adamw_torch_fused"

    @property
    def pairs_per_step(self) -> int:
        """The effective batch size: pairs in one optimiser step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


class EarlyStoppingArguments(_Arguments):
    """Arguments of ``transformers.EarlyStoppingCallback``, under the names of the spec."""

    patience: int
    min_delta: float
