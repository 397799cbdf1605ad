"""The parts of a reward model that the packed path needs, and its forward over a packed row."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from worker.reward_model.packed_attention import (
    KeysAndValuesTakenError,
    packed_attention,
    running_pass,
)
from worker.reward_model.packed_layout import PackedRow


@dataclass(frozen=True)
class RewardModel:
    """A causal decoder, its reward head, and what of them has to be steered.

    `trims_last_layer` says that the last layer runs only where a reward is read. A few models do
    not allow it: GPT-2 fixes its shapes before the layers, DiffLlama attends twice in each.
    """

    decoder: PreTrainedModel
    head: nn.Module
    attentions: tuple[nn.Module, ...]
    configs: tuple[PretrainedConfig, ...]
    layers: tuple[nn.Module, ...]
    trims_last_layer: bool
    takes_varlen: bool = True

    @classmethod
    def of(cls, model: PreTrainedModel | PeftModel) -> "RewardModel":
        """Take a classifier apart; AttributeError when it is not built as decoders are."""
        inner = base_model(model)
        decoder: PreTrainedModel = getattr(inner, inner.base_model_prefix)
        head: Any = inner.score
        attentions = causal_attentions(decoder)
        configs: dict[int, Any] = {id(m.config): m.config for m in attentions}
        depth = decoder.config.get_text_config().num_hidden_layers
        stacks = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        return cls(
            decoder,
            head,
            attentions,
            tuple(configs.values()),
            tuple(stacks[0]) if stacks else (),
            trims_last_layer=bool(stacks),
        )

    def rewards(self, row: PackedRow) -> Tensor:
        """Rewards [B, 2] of a row's pairs, chosen then rejected, in float32.

        To be called within `packed_attention`.
        """
        with self._last_layer_only_at_rewards():
            hidden = self.decoder(
                input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False
            ).last_hidden_state
        if not self.trims_last_layer:
            hidden = hidden.index_select(1, row.reward_index)
        rewards: Tensor = self.head(hidden)
        return rewards.float().view(-1, 2)

    def attending(self, row: PackedRow) -> Any:
        """Context in which the decoder attends within the segments of `row`."""
        return packed_attention(self.configs, row, takes_varlen=self.takes_varlen)

    @contextmanager
    def checkpointing(self, *, is_on: bool) -> Iterator[None]:
        """Keep only each layer's input for the backward, which then computes the layer again.

        A trimmed last layer is left out: it keeps next to nothing.
        """
        deep = self.layers[:-1] if self.trims_last_layer else self.layers
        layers: list[Any] = [m for m in deep if isinstance(m, GradientCheckpointingLayer)]
        try:
            for layer in layers if is_on else ():
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
                layer.gradient_checkpointing = True
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = False

    @contextmanager
    def _last_layer_only_at_rewards(self) -> Iterator[None]:
        if not self.trims_last_layer:
            yield
            return
        hook = self.layers[-1].register_forward_pre_hook(_keep_rewarded, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def base_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside, with its adapters in place."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, inner)


def causal_attentions(decoder: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that attend causally, by the function that their configuration names."""
    return tuple(
        m
        for m in decoder.modules()
        if getattr(m, "is_causal", False) is True
        and isinstance(getattr(m, "config", None), PretrainedConfig)
    )


def _keep_rewarded(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let the layer make keys and values of the whole row, then run it only where rewards are read.

    Nothing else of the row's last layer is ever looked at. The first call is left through an
    exception in its attention: what a model does before that stays the model's own affair.
    """
    current = running_pass()
    current.is_taking = True
    try:
        layer.forward(*args, **kwargs)
    except KeysAndValuesTakenError:
        pass
    finally:
        current.is_taking = False
    index, row_shape = current.row.reward_index, current.row.input_ids.shape

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] == row_shape:
            return value.index_select(1, index)
        if isinstance(value, tuple):
            return tuple(pick(v) for v in value)
        return value

    return pick(args), {name: pick(value) for name, value in kwargs.items()}
