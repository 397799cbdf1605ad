"""TRL's RewardTrainer on packed rows: the same batches, loss and metrics with fewer operations."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from trl.trainer.reward_trainer import RewardTrainer
from typing_extensions import override

from worker.reward_model.mixed_precision import without_adapter_casts
from worker.reward_model.packed_layout import (
    PackedRow,
    SplitGroup,
    chunk_groups,
    pack_groups,
    split_batch,
)
from worker.reward_model.packed_model import PackedModel
from worker.trainer.shared_prefix.memory import (
    default_budget_bytes,
    frozen_weights_cast,
    saved_activation_bytes,
)

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class SharedPrefixRewardTrainer(RewardTrainer):
    """A RewardTrainer that computes the common prefix of a pair once, and no padding.

    Takes RewardTrainer's arguments. ``memory_budget_bytes`` bounds what autograd saves in a
    forward: a larger batch is computed in chunks, with the same loss and gradients. Activation
    checkpointing, which changes no bit, is used only for a pair that alone saves more than
    ``recompute_above_bytes``, and only if ``may_recompute`` is set (by default the arguments'
    gradient_checkpointing).
    """

    model: Any
    args: Any
    optimizer: Any
    train_dataset: Any

    def __init__(
        self,
        *args: Any,
        memory_budget_bytes: int | None = None,
        recompute_above_bytes: int | None = None,
        may_recompute: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.memory_budget_bytes = memory_budget_bytes or default_budget_bytes(
            self.model, self.args.device
        )
        self.recompute_above_bytes = recompute_above_bytes or self.memory_budget_bytes
        self.is_stock = False
        self._stock_args = self.args
        self.may_recompute = (
            bool(self.args.gradient_checkpointing) if may_recompute is None else may_recompute
        )
        self.args = copy.copy(self.args)
        _set_activation_checkpointing(self.args, is_on=False)
        if self._stock_args.gradient_checkpointing and hasattr(self.model, "peft_config"):
            # TRL made the embeddings' output require gradients, as activation checkpointing needs.
            self.model.disable_input_require_grads()

    def use_stock(self) -> None:
        """Train exactly as RewardTrainer does; call it before ``train``."""
        self.is_stock = True
        self.args = self._stock_args
        if self.args.gradient_checkpointing and hasattr(self.model, "peft_config"):
            self.model.enable_input_require_grads()

    @cached_property
    def packed_model(self) -> PackedModel:
        """The parts of the model that a packed forward controls."""
        return PackedModel.of(self.model)

    @cached_property
    def bytes_per_token(self) -> float:
        """Bytes that a forward saves for each token of a row.

        Measured on the first pair of the data set and not on the current batch, so that a resumed
        run splits its batches as the run that it continues.
        """
        first = self.data_collator([next(iter(self.train_dataset))])
        row = pack_groups(self._split(first), self.args.device)

        def forward() -> Tensor:
            with self.accelerator.autocast(), self.packed_model.packed_attention(row):
                return self.packed_model.rewards(row)

        with torch.enable_grad(), self._mixed_precision():
            saved = saved_activation_bytes(self.model, forward)
        return max(1, saved) / row.token_count

    @property
    def token_budget(self) -> int:
        """Tokens of a row whose forward saves ``memory_budget_bytes``."""
        return max(1, int(self.memory_budget_bytes / self.bytes_per_token))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as RewardTrainer does."""
        with self._mixed_precision():
            return super().train(*args, **kwargs)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Run forward and backward of one batch in chunks; return the mean loss, detached."""
        if self.is_stock:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-untyped-call]
            return loss
        model.train()
        if callable(switch := getattr(self.optimizer, "train", None)):
            switch()  # schedule-free optimisers
        pairs = self._split(inputs)
        margins = self._margins(inputs)
        total = torch.zeros((), device=self.args.device)
        rewards: list[Tensor] = []
        for chunk in chunk_groups(pairs, self.token_budget):
            done = sum(len(r) for r in rewards)
            chunk_margins = None if margins is None else margins[done : done + len(chunk)]
            row = pack_groups(chunk, self.args.device)
            with (
                self.packed_model.activation_checkpointing(is_on=self._needs_recomputation(row)),
                self.packed_model.packed_attention(row),
            ):
                with self.accelerator.autocast():
                    chunk_rewards = self.packed_model.rewards(row).view(-1, 2)
                loss = self._loss(chunk_rewards, chunk_margins) * (len(chunk) / len(pairs))
                loss = loss / self.current_gradient_accumulation_steps
                self.accelerator.backward(loss)
            total += loss.detach()
            rewards.append(chunk_rewards.detach())
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._record_metrics(torch.cat(rewards))
        return total

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one eval batch and TRL's outputs: rewards [2B, 1], chosen first."""
        if self.is_stock:
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        parts: list[Tensor] = []
        for chunk in chunk_groups(self._split(inputs), self.token_budget):
            row = pack_groups(chunk, self.args.device)
            with self.accelerator.autocast(), self.packed_model.packed_attention(row):
                parts.append(self.packed_model.rewards(row).view(-1, 2))
        rewards = torch.cat(parts)
        loss = self._loss(rewards, self._margins(inputs))
        self._record_metrics(rewards.detach())
        return (loss, {"logits": rewards.T.reshape(-1, 1)}) if return_outputs else loss

    @contextmanager
    def _mixed_precision(self) -> Iterator[None]:
        """Leave out the casts of weights and inputs that autocast would repeat at every call."""
        dtype = None if self.is_stock else AUTOCAST_DTYPES.get(self.accelerator.mixed_precision)
        if dtype is None:
            yield
            return
        adapters = getattr(self.model, "peft_config", {}).values()
        # DoRA reads the weights outside of autocast; without adapters they are saved as they are.
        is_lora = adapters and not any(getattr(config, "use_dora", False) for config in adapters)
        with (
            without_adapter_casts(self.model),
            frozen_weights_cast(self.model, dtype if is_lora else None),
        ):
            yield

    def _split(self, inputs: dict[str, Any]) -> list[SplitGroup]:
        pad_token_id = self.model.config.get_text_config().pad_token_id
        return split_batch(inputs["input_ids"], pad_token_id)

    def _margins(self, inputs: dict[str, Any]) -> Tensor | None:
        return inputs["margin"].to(self.args.device) if "margin" in inputs else None

    def _needs_recomputation(self, row: PackedRow) -> bool:
        saved = row.token_count * self.bytes_per_token
        return self.may_recompute and saved > self.recompute_above_bytes

    def _loss(self, rewards: Tensor, margins: Tensor | None) -> Tensor:
        """Return the Bradley–Terry loss of rewards [B, 2], with TRL's margins and centring."""
        difference = rewards[:, 0] - rewards[:, 1]
        if margins is not None:
            difference = difference - margins
        loss = -logsigmoid(difference).mean()
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * (rewards.sum(dim=1) ** 2).mean()
        return loss

    def _record_metrics(self, rewards: Tensor) -> None:
        """Record TRL's metrics of one batch [B, 2] with one device synchronisation, not five."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["num_tokens"] = [self._total_train_tokens]
        difference = rewards[:, 0] - rewards[:, 1]
        values = {
            "min_reward": rewards.min(),
            "mean_reward": rewards.mean(),
            "max_reward": rewards.max(),
            "accuracy": (difference > 0).float().mean(),
            "margin": difference.mean(),
        }
        for name, value in zip(values, torch.stack(list(values.values())).tolist(), strict=True):
            metrics[name].append(value)


def _set_activation_checkpointing(args: Any, *, is_on: bool) -> None:
    args.gradient_checkpointing = is_on
    args.activation_checkpointing = is_on
