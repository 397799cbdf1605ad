"""Forward of a decoder reward model over a packed row."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from worker.reward_model.fused_layers import FusedLayers, use_fused_layers
from worker.reward_model.packed_attention import (
    KeysAndValuesCapturedError,
    PackedPass,
    current_pass,
    packed_attention,
)
from worker.reward_model.packed_layout import PackedRow


@dataclass(frozen=True)
class PackedModel:
    """A causal decoder with its reward head, and the parts that a packed forward controls.

    With ``trims_last_layer`` the last layer runs only at the tokens at which rewards are read. Some
    models do not support it: GPT-2 computes shapes before the layers, and DiffLlama attends twice
    in a layer.
    """

    decoder: PreTrainedModel
    head: nn.Module
    attentions: tuple[nn.Module, ...]
    configs: tuple[PretrainedConfig, ...]
    layers: tuple[nn.Module, ...]
    trims_last_layer: bool
    uses_varlen: bool = True
    uses_fused_layers: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel | PeftModel) -> "PackedModel":
        """Find the parts of a classifier.

        Raises:
            AttributeError: the model is not a decoder.
        """
        inner = unwrap_peft(model)
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
        """Return the rewards [sequences] of a row in float32, in the row's order.

        Call it within ``packed_attention``.
        """
        rewards: Tensor = self.head(self.hidden_at_rewards(row))
        return rewards.float().view(-1)

    def hidden_at_rewards(self, row: PackedRow) -> Tensor:
        """Return the head's input [1, sequences, hidden]; call it within ``packed_attention``."""
        with self._last_layer_only_at_rewards():
            hidden: Tensor = self.decoder(
                input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False
            ).last_hidden_state
        return hidden if self.trims_last_layer else hidden.index_select(1, row.reward_index)

    @contextmanager
    def packed_attention(self, row: PackedRow) -> Iterator[PackedPass]:
        """Make the decoder attend within the segments of ``row``."""
        with ExitStack() as stack:
            if self.uses_fused_layers:
                stack.enter_context(use_fused_layers(self.fused_layers))
            yield stack.enter_context(
                packed_attention(self.configs, row, uses_varlen=self.uses_varlen)
            )

    @cached_property
    def fused_layers(self) -> FusedLayers:
        """The parts of the decoder that have a fused kernel."""
        return FusedLayers.of(self.decoder)

    def activation_checkpointing(self, *, is_on: bool) -> AbstractContextManager[None]:
        """Keep only each layer's input for the backward, which recomputes the layer.

        A trimmed last layer is excluded, because it needs almost no memory.
        """
        candidates = self.layers[:-1] if self.trims_last_layer else self.layers
        return recomputed_layers(candidates, is_on=is_on)

    @contextmanager
    def _last_layer_only_at_rewards(self) -> Iterator[None]:
        if not self.trims_last_layer:
            yield
            return
        hook = self.layers[-1].register_forward_pre_hook(_trim_to_rewards, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def recomputed_layers(modules: Iterable[nn.Module], *, is_on: bool) -> Iterator[None]:
    """Make the layers among ``modules`` keep only their input, and recompute in the backward."""
    layers: list[Any] = [m for m in modules if isinstance(m, GradientCheckpointingLayer)]
    try:
        for layer in layers if is_on else ():
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = True
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False


def unwrap_peft(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the inner transformers model with its adapters."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, inner)


def causal_attentions(decoder: nn.Module) -> tuple[nn.Module, ...]:
    """Return the causal attention modules that use the function named in their configuration."""
    return tuple(
        m
        for m in decoder.modules()
        if getattr(m, "is_causal", False) is True
        and isinstance(getattr(m, "config", None), PretrainedConfig)
    )


def _trim_to_rewards(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Capture the layer's keys and values of the whole row, then select the reward positions.

    Only these positions of the last layer's output are used. An exception in the attention ends the
    first call, so that the model's own code before it runs unchanged.
    """
    current = current_pass()
    current.is_capturing = True
    try:
        layer.forward(*args, **kwargs)
    except KeysAndValuesCapturedError:
        pass
    finally:
        current.is_capturing = False
    current.is_trimmed = True
    index, row_shape = current.row.reward_index, current.row.input_ids.shape

    def select(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] == row_shape:
            return value.index_select(1, index)
        if isinstance(value, tuple):
            return tuple(select(v) for v in value)
        return value

    return select(args), {name: select(value) for name, value in kwargs.items()}
