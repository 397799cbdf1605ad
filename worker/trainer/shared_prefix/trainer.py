"""TRL's RewardTrainer without padding: the same batches, loss and metrics with fewer operations."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.reward_trainer import RewardTrainer
from typing_extensions import override

from worker.reward_model.errors import is_out_of_memory
from worker.reward_model.fused_layers import fused_kernels
from worker.reward_model.mixed_precision import without_adapter_casts
from worker.reward_model.packed_layout import SplitGroup, split_replies, to_device
from worker.reward_model.packed_model import PackedModel
from worker.reward_model.scoring import BATCH_TOKENS
from worker.trainer.shared_prefix.disentangled import DisentangledModel
from worker.trainer.shared_prefix.forwards import Forward, GroupedForward, PackedForward
from worker.trainer.shared_prefix.loss import batch_metrics, pairwise_loss
from worker.trainer.shared_prefix.memory import (
    MEASURED_TOKENS,
    ActivationCost,
    chunks_within,
    copied_gradients,
    default_budget_bytes,
    frozen_weights_cast,
    restore_gradients,
    saved_activation_bytes,
)

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class SharedPrefixRewardTrainer(RewardTrainer):
    """A RewardTrainer that computes the common prefix of a pair once, and no padding.

    Takes RewardTrainer's arguments. ``memory_budget_bytes`` bounds what autograd saves in a
    forward: a larger batch is computed in chunks, with the same loss and gradients. Activation
    checkpointing, which changes no bit, is used only for a pair that alone saves more than
    ``recompute_above_bytes``, and only if ``may_recompute`` is set (by default the arguments'
    gradient_checkpointing). If memory runs out, the step is repeated with half the budget.

    Models that cannot use packed rows train in groups of similar length after
    ``use_length_groups``.

    On a GPU a step reads from the device once, so that the host is free to queue the next kernels.
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
        #: Called with the new budget when memory ran out.
        self.on_budget_lowered: Callable[[int], None] = lambda _budget: None
        #: The loss of the last micro-step.
        self.step_loss = 0.0
        self._is_packed = True
        #: A DeBERTa whose attention ``check_disentangled`` found to be equal.
        self.disentangled: DisentangledModel | None = None
        self.may_recompute = (
            bool(self.args.gradient_checkpointing) if may_recompute is None else may_recompute
        )
        if self.args.gradient_checkpointing and hasattr(self.model, "peft_config"):
            # TRL made the embeddings' output require gradients, as activation checkpointing needs.
            self.model.disable_input_require_grads()
        self.args = copy.copy(self.args)  # the layers recompute only if a pass needs it
        self.args.gradient_checkpointing = self.args.activation_checkpointing = False

    def use_length_groups(self) -> None:
        """Pad only sequences of similar length to each other; call it before ``train``."""
        self._is_packed = False
        self.__dict__.pop("activation_cost", None)

    def limit_budget(self, budget_bytes: int) -> None:
        """Lower the memory budget to that of the run that this one continues."""
        self.memory_budget_bytes = min(self.memory_budget_bytes, budget_bytes)
        self.recompute_above_bytes = min(self.recompute_above_bytes, self.memory_budget_bytes)

    @cached_property
    def packed_model(self) -> PackedModel:
        """The parts of the model that a packed forward controls."""
        return PackedModel.of(self.model)

    @property
    def used_kernels(self) -> str | None:
        """Name and version of the fused kernels that train the layers, or None."""
        is_fused = self._is_packed and self.packed_model.uses_fused_layers
        return fused_kernels(self.args.device) if is_fused else None

    @property
    def forward_pass(self) -> Forward:
        """How rewards are computed."""
        pad_token_id = self.model.config.get_text_config().pad_token_id
        if self._is_packed:
            return PackedForward(self.packed_model, pad_token_id, self.args.device)
        return GroupedForward(self.model, pad_token_id, self.args.device, self.disentangled)

    @cached_property
    def activation_cost(self) -> ActivationCost:
        """Bytes that a forward saves.

        Measured on tokens of the first pair of the data set and not on the current batch, so that a
        resumed run splits its batches like the run that it continues.
        """
        forward = self.forward_pass
        ids = torch.tensor(next(iter(self.train_dataset))["chosen_ids"])
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or MEASURED_TOKENS
        # Some architectures number positions from the pad token's id plus one.
        longest = max(1, min(MEASURED_TOKENS, positions - 8))
        ids = ids.repeat(-(-longest // len(ids)))

        def saved_bytes(count: int) -> int:
            alone = SplitGroup(ids[:count], (), count)
            with forward.passing([alone], is_recomputed=False) as row:

                def compute() -> Tensor:
                    with self.accelerator.autocast():
                        return forward.rewards(row)

                return saved_activation_bytes(self.model, compute)

        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad(), self._mixed_precision():
            return ActivationCost.measure(saved_bytes, longest)

    def get_train_dataloader(self) -> Any:
        """Return TRL's loader without the transfer to the device: rows are laid out on the host."""
        loader: Any = super().get_train_dataloader()
        loader.device = None
        return loader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as RewardTrainer does."""
        with self._mixed_precision():
            return super().train(*args, **kwargs)

    @override
    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Run forward and backward of one batch in chunks; return the mean loss, detached."""
        model.train()
        if callable(switch := getattr(self.optimizer, "train", None)):
            switch()  # schedule-free optimisers
        pairs = self.forward_pass.split(inputs)
        margins = self._margins(inputs)
        before = copied_gradients(self.model)
        while True:
            try:
                total, rewards = self._forward_and_backward(pairs, margins)
                break
            except Exception as error:
                if not is_out_of_memory(error) or not self._lower_budget(pairs):
                    raise
            restore_gradients(self.model, before)
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self.step_loss = self._record_metrics(rewards, total)
        return total

    def _forward_and_backward(
        self, pairs: Sequence[SplitGroup], margins: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the rewards [B, 2], both detached."""
        forward = self.forward_pass
        total = torch.zeros((), device=self.args.device)
        rewards: list[Tensor] = []
        for chunk in chunks_within(pairs, self.activation_cost, self.memory_budget_bytes):
            done = sum(len(r) for r in rewards)
            chunk_margins = None if margins is None else margins[done : done + len(chunk)]
            with forward.passing(chunk, is_recomputed=self._is_recomputed(chunk)) as row:
                with self.accelerator.autocast():
                    chunk_rewards = forward.rewards(row).view(-1, 2)
                loss = self._loss(chunk_rewards, chunk_margins) * (len(chunk) / len(pairs))
                loss = loss / self.current_gradient_accumulation_steps
                self.accelerator.backward(loss)
            total += loss.detach()
            rewards.append(chunk_rewards.detach())
        return total, torch.cat(rewards)

    def _lower_budget(self, pairs: Sequence[SplitGroup]) -> bool:
        """Halve the memory budget; return False if not even one pair at a time would need less."""
        chunks = list(chunks_within(pairs, self.activation_cost, self.memory_budget_bytes))
        largest = max(chunks, key=self._cost)
        if len(largest) == 1 and (self._is_recomputed(largest) or not self.may_recompute):
            return False
        self.limit_budget(int(min(self.memory_budget_bytes, self._cost(largest)) / 2))
        self.on_budget_lowered(self.memory_budget_bytes)
        return True

    def _cost(self, pairs: Sequence[SplitGroup]) -> float:
        return sum(self.activation_cost.of(pair) for pair in pairs)

    def _is_recomputed(self, chunk: Sequence[SplitGroup]) -> bool:
        return self.may_recompute and self._cost(chunk) > self.recompute_above_bytes

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one eval batch and TRL's outputs: rewards [2B, 1], chosen first."""
        pairs = self.forward_pass.split(inputs)
        rewards = self._rewards(pairs, self.memory_budget_bytes).view(-1, 2)
        loss = self._loss(rewards, self._margins(inputs))
        self._record_metrics(rewards.detach(), loss.detach())
        return (loss, {"logits": rewards.T.reshape(-1, 1)}) if return_outputs else loss

    def score_groups(self, groups: Sequence[Sequence[list[int]]]) -> list[float]:
        """Return the rewards of all sequences of token ids, group by group; see ``split_replies``.

        A group has the replies to one prompt. If memory runs out, rows are halved.
        """
        split = [split_replies(group) for group in groups]
        per_token, tokens = self.activation_cost.per_token, BATCH_TOKENS
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self._mixed_precision():
                while True:
                    try:
                        rewards: list[float] = self._rewards(split, tokens * per_token).tolist()
                        return rewards
                    except Exception as error:
                        if not is_out_of_memory(error) or tokens == 1:
                            raise
                    tokens //= 2
        finally:
            self.model.train(was_training)

    def _rewards(self, groups: Sequence[SplitGroup], budget: float) -> Tensor:
        forward, parts = self.forward_pass, []
        for chunk in chunks_within(groups, self.activation_cost, budget):
            with forward.passing(chunk, is_recomputed=False) as row, self.accelerator.autocast():
                parts.append(forward.rewards(row))
        return torch.cat(parts)

    @contextmanager
    def _mixed_precision(self) -> Iterator[None]:
        """Avoid the casts of weights and inputs that autocast would repeat at every call."""
        dtype = AUTOCAST_DTYPES.get(self.accelerator.mixed_precision)
        if dtype is None:
            yield
            return
        adapters = getattr(self.model, "peft_config", {}).values()
        # DoRA reads the weights outside of autocast; without adapters they are saved unchanged.
        is_lora = adapters and not any(getattr(config, "use_dora", False) for config in adapters)
        with (
            without_adapter_casts(self.model),
            frozen_weights_cast(self.model, dtype if is_lora else None),
        ):
            yield

    def _margins(self, inputs: dict[str, Any]) -> Tensor | None:
        return to_device(inputs["margin"], self.args.device) if "margin" in inputs else None

    def _loss(self, rewards: Tensor, margins: Tensor | None) -> Tensor:
        return pairwise_loss(rewards, margins, self.args.center_rewards_coefficient)

    def _record_metrics(self, rewards: Tensor, loss: Tensor) -> float:
        """Record TRL's metrics of one batch [B, 2]; return its loss."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["num_tokens"] = [self._total_train_tokens]
        values = batch_metrics(rewards, loss)
        read = values.pop("loss")
        for name, value in values.items():
            metrics[name].append(value)
        return read
